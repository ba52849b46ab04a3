"""Instance segmentation and rotated detection: a neck, an RPN and RoI heads of OpenMMLab."""
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.structures.bbox import BaseBoxes, get_box_tensor
from mmdet.utils import InstanceList, reduce_mean
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from mmrotate.models.dense_heads import OrientedRPNHead
from mmrotate.structures import RotatedBoxes
from torch import Tensor

from mtp.models.tasks.base import Task, TaskBatch
from mtp.registry import MODELS


class _GlobalNormaliser:
    """Averages the RPN losses over the anchors sampled on all processes."""

    def get_targets(self, anchor_list: list, *args, **kwargs) -> tuple:
        *targets, avg_factor = super().get_targets(anchor_list, *args, **kwargs)
        avg_factor = anchor_list[0][0].new_tensor(avg_factor, dtype=torch.float32)
        return *targets, reduce_mean(avg_factor).clamp(min=1)


@MODELS.register_module()
class MultiDatasetRPNHead(_GlobalNormaliser, RPNHead):
    """mmdet's ``RPNHead``, its losses averaged over all processes' anchors."""


@MODELS.register_module()
class MultiDatasetOrientedRPNHead(_GlobalNormaliser, OrientedRPNHead):
    """mmrotate's ``OrientedRPNHead``, its losses averaged over all processes' anchors."""


class TwoStageTask(Task):
    """Region proposals and their classification, shared by all data sets up to the last layers.

    Args:
        in_channels: channels of the four feature maps.
        num_classes: data set -> number of classes.
        neck: config without ``in_channels``.
        rpn_head: config of one of the RPN heads above.
        roi_head: config of :class:`SharedRoIHead` without ``num_classes``.
        train_cfg: ``rpn``, ``rpn_proposal`` and ``rcnn``, as in mmdet.
        test_cfg: ``rpn`` and ``rcnn``, as in mmdet.
    """
    gt_field: str
    ignored_field: str | None = None
    pred_field: str

    def __init__(self, in_channels: list[int], num_classes: dict[str, int], neck: dict,
                 rpn_head: dict, roi_head: dict, train_cfg: dict, test_cfg: dict) -> None:
        super().__init__()
        train_cfg, test_cfg = ConfigDict(train_cfg), ConfigDict(test_cfg)
        self.neck = MODELS.build(dict(neck, in_channels=list(in_channels)))
        self.rpn_head = MODELS.build(
            dict(rpn_head, train_cfg=train_cfg.rpn, test_cfg=test_cfg.rpn))
        self.roi_head = MODELS.build(
            dict(roi_head, num_classes=num_classes, train_cfg=train_cfg.rcnn,
                 test_cfg=test_cfg.rcnn))
        self.proposal_cfg = train_cfg.rpn_proposal

    def to_boxes(self, boxes: BaseBoxes) -> Tensor | BaseBoxes:
        """Ground-truth boxes as this task's assigners and coders take them."""
        return get_box_tensor(boxes)

    def loss(self, features: list[Tensor], batch: TaskBatch) -> dict[str, dict[str, Tensor]]:
        """RPN losses (a list per pyramid level) and RoI losses per data set."""
        gts, ignored = self._ground_truth(batch)
        feats, outputs = self._propose(features)
        losses = {}
        for name, group in batch.groups.items():
            # the RPN knows one class: object
            objects = [InstanceData(metainfo=gt.metainfo, bboxes=gt.bboxes,
                                    labels=torch.zeros_like(gt.labels)) for gt in gts[group]]
            losses[name] = self.rpn_head.loss_by_feat(
                *([level[group] for level in maps] for maps in outputs),
                objects, batch.metas[group], ignored[group])
        with torch.no_grad():
            proposals = self.rpn_head.predict_by_feat(
                *outputs, batch_img_metas=batch.metas, cfg=self.proposal_cfg)
        for name, loss in self.roi_head.loss(feats, proposals, batch, gts, ignored).items():
            losses[name] |= loss
        return losses

    def predict(self, features: list[Tensor], batch: TaskBatch) -> None:
        """Add this task's field: ``bboxes``, ``scores``, ``labels`` (and ``masks``)."""
        feats, outputs = self._propose(features)
        proposals = self.rpn_head.predict_by_feat(*outputs, batch_img_metas=batch.metas)
        results = self.roi_head.predict(feats, proposals, batch.samples, rescale=True)
        for sample, result in zip(batch.samples, results):
            sample.set_field(self.to_prediction(result), self.pred_field, dtype=InstanceData)

    def to_prediction(self, result: InstanceData) -> InstanceData:
        """The RoI head's result as mtp hands it on."""
        return result

    def _propose(self, features: list[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Maps of the neck, and the RPN's scores and deltas by level."""
        # float32 under autocast too: RoI features are sampled at the boxes' coordinates, and
        # bfloat16 has 3 digits for these.
        feats = [feat.float() for feat in self.neck(features)]
        return feats, [[level.float() for level in maps] for maps in self.rpn_head(feats)]

    def _ground_truth(self, batch: TaskBatch) -> tuple[InstanceList, InstanceList]:
        gts, ignored = [], []
        for sample in batch.samples:
            gt = InstanceData(metainfo={'sample_seed': sample.get('sample_seed')},
                              **dict(sample.get(self.gt_field).items()))
            gt.bboxes = self.to_boxes(gt.bboxes)
            gts.append(gt)
            ignore = self.ignored_field and sample.get(self.ignored_field)
            ignored.append(ignore and InstanceData(bboxes=self.to_boxes(ignore.bboxes)))
        return gts, ignored


@MODELS.register_module()
class InstanceTask(TwoStageTask):
    """Instance segmentation (Mask R-CNN) from ``gt_instances`` to ``pred_instances``.

    Source: He et al., *Mask R-CNN*; settings of the MTP pretraining in ``configs/_base_/heads``.
    """
    gt_field = 'gt_instances'
    ignored_field = 'ignored_instances'
    pred_field = 'pred_instances'


@MODELS.register_module()
class RotatedTask(TwoStageTask):
    """Rotated detection (Oriented R-CNN), ``gt_`` to ``pred_rotated_instances``.

    Boxes are mmrotate's ``RotatedBoxes`` (cx, cy, w, h in pixels, angle in radians, clockwise on
    screen). Source: Xie et al., *Oriented R-CNN for Object Detection*.
    """
    gt_field = 'gt_rotated_instances'
    pred_field = 'pred_rotated_instances'

    def to_boxes(self, boxes: BaseBoxes) -> BaseBoxes:
        return boxes

    def to_prediction(self, result: InstanceData) -> InstanceData:
        result.bboxes = RotatedBoxes(result.bboxes)
        return result
