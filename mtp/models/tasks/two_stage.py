"""Instance segmentation and rotated detection: a neck, an RPN and RoI heads of OpenMMLab."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from mmrotate.structures import RotatedBoxes
from torch import Tensor

from mtp.models.lean_fpn import LeanFPN
from mtp.models.tasks.base import Task, TaskBatch, average, quotients
from mtp.models.tasks.ground_truth import GroundTruth
from mtp.registry import MODELS


class TwoStageTask(Task):
    """Region proposals and their classification, shared by all data sets up to the last layers.

    Args:
        in_channels: numbers of channels of the four feature maps.
        num_classes: data set -> number of classes.
        neck: config of the neck, without ``in_channels``.
        rpn_head: config of one of the heads of :mod:`mtp.models.tasks.rpn_head`.
        roi_head: config of :class:`SharedRoIHead`, without ``num_classes``.
        train_cfg: training config of ``rpn``, ``rpn_proposal`` and ``rcnn``, as in mmdet.
        test_cfg: test config of ``rpn`` and ``rcnn``, as in mmdet.
        without_masks: data sets whose objects have boxes alone.
    """

    compiled_methods = ('quotients',)
    quotients = staticmethod(quotients)
    gt_field: str
    pred_field: str

    def __init__(
        self,
        in_channels: list[int],
        num_classes: dict[str, int],
        neck: dict,
        rpn_head: dict,
        roi_head: dict,
        train_cfg: dict,
        test_cfg: dict,
        without_masks: Sequence[str] = (),
    ) -> None:
        super().__init__()
        train, test = ConfigDict(train_cfg), ConfigDict(test_cfg)
        self.neck = MODELS.build(dict(neck, in_channels=list(in_channels)))
        self.rpn_head = MODELS.build(dict(rpn_head, train_cfg=train.rpn, test_cfg=test.rpn))
        self.roi_head = MODELS.build(
            dict(
                roi_head,
                num_classes=num_classes,
                without_masks=without_masks,
                train_cfg=train.rcnn,
                test_cfg=test.rcnn,
            )
        )
        self.proposal_cfg = train.rpn_proposal

    def loss(self, features: list[Tensor], batch: TaskBatch) -> dict[str, dict[str, Tensor]]:
        """Return RPN and RoI losses per data set."""
        truth = GroundTruth.collect(batch, self.gt_field, self.roi_head.with_mask)
        feats, for_boxes, for_masks = self._pyramid(features, 3)
        outputs, anchors = self.rpn_head(feats)
        of_rpn = self.rpn_head.loss_batch(outputs, anchors, truth, batch.shapes)
        proposals = self.rpn_head.propose(outputs, anchors, batch.shapes, self.proposal_cfg)
        losses, logged = self.roi_head.loss(for_boxes, for_masks, proposals, truth, batch)
        return average(batch, [of_rpn, *losses], logged, self.quotients)

    def predict(self, features: list[Tensor], batch: TaskBatch) -> None:
        """Add this task's field: ``bboxes``, ``scores``, ``labels`` (and ``masks``)."""
        (feats,) = self._pyramid(features, 1)
        found = self.rpn_head.propose(*self.rpn_head(feats), batch.shapes, self.rpn_head.test_cfg)
        proposals = [
            InstanceData(bboxes=boxes[valid]) for boxes, valid in zip(found.boxes, found.valid)
        ]
        results = self.roi_head.predict(feats, proposals, batch.samples, rescale=True)
        for sample, result in zip(batch.samples, results):
            sample.set_field(self.to_prediction(result), self.pred_field, dtype=InstanceData)

    def _pyramid(self, features: list[Tensor], consumers: int) -> list[tuple[Tensor, ...]]:
        """Return the neck's maps for each consumer.

        They are computed in the dtype of the features if the neck's weights have it: autocast,
        which such a neck does not need, would resize and add its maps in float32.
        """
        device, dtype = features[0].device.type, features[0].dtype
        weights = (
            getattr(module, name)  # a copy of the parameter, where there is one
            for module in self.neck.modules()
            for name, _ in module.named_parameters(recurse=False)
        )
        unneeded = torch.is_autocast_enabled(device) and all(w.dtype == dtype for w in weights)
        with torch.autocast(device, enabled=False) if unneeded else nullcontext():
            if isinstance(self.neck, LeanFPN):
                return self.neck(features, consumers)
            return consumers * [self.neck(features)]

    def to_prediction(self, result: InstanceData) -> InstanceData:
        """Convert the RoI head's result to the prediction that goes into the sample."""
        return result


@MODELS.register_module()
class InstanceTask(TwoStageTask):
    """Instance segmentation (Mask R-CNN) from ``gt_instances`` to ``pred_instances``.

    Source: He et al., *Mask R-CNN*; settings of the MTP pretraining in
    ``configs/_base_/pretrain/heads``.
    """

    gt_field = 'gt_instances'
    pred_field = 'pred_instances'


@MODELS.register_module()
class RotatedTask(TwoStageTask):
    """Rotated detection (Oriented R-CNN), ``gt_rotated_instances`` to ``pred_rotated_instances``.

    Boxes are mmrotate's ``RotatedBoxes`` (cx, cy, w, h in pixels, angle in radians, clockwise on
    screen). Source: Xie et al., *Oriented R-CNN for Object Detection*.
    """

    gt_field = 'gt_rotated_instances'
    pred_field = 'pred_rotated_instances'

    def to_prediction(self, result: InstanceData) -> InstanceData:
        result.bboxes = RotatedBoxes(result.bboxes)
        return result
