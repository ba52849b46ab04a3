"""Random sampling of anchors and proposals that is a function of the image."""
import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import RandomSampler, SamplingResult
from mmengine.structures import InstanceData
from torch import Tensor

from mtp.registry import TASK_UTILS


@TASK_UTILS.register_module()
class SeededRandomSampler(RandomSampler):
    """mmdet's ``RandomSampler``, drawing from a generator seeded with the image's ``sample_seed``.

    An image then gets the same anchors and proposals on whichever process it lands, and after a
    resume. Without ``sample_seed`` in the ground truth's metainfo torch's global generator is used.
    """

    def sample(self, assign_result: AssignResult, pred_instances: InstanceData,
               gt_instances: InstanceData, **kwargs) -> SamplingResult:
        """As in mmdet."""
        seed = gt_instances.get('sample_seed')
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        return super().sample(assign_result, pred_instances, gt_instances, **kwargs)

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        """Draw ``num`` of ``gallery`` without replacement."""
        order = torch.randperm(len(gallery), generator=self._generator)[:num]
        return gallery[order.to(gallery.device)]
