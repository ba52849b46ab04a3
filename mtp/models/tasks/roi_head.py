"""RoI heads with one trunk for all data sets and last layers of their own."""
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import empty_instances
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mtp.models.tasks.base import TaskBatch, count_ratio
from mtp.registry import MODELS

# What a config says of the box and mask heads for the trunk alone; the rest (coder, losses, ...)
# holds for the last layers too.
TRUNK_KEYS = ('type', 'in_channels', 'fc_out_channels', 'conv_out_channels', 'roi_feat_size',
              'num_convs')


@MODELS.register_module()
class SharedRoIHead(StandardRoIHead):
    """mmdet's ``StandardRoIHead`` whose heads end in one predictor per data set.

    ``bbox_head`` and ``mask_head`` become the shared trunks: their last layers are taken out and
    they return features. ``bbox_heads[name]`` (``fc_cls``, ``fc_reg``) and ``mask_heads[name]``
    (``conv_logits``) are mmdet's plain ``BBoxHead`` and ``FCNMaskHead`` on these features, which
    also know the data set's targets, losses and post-processing. RoI features and trunks run once
    for the RoIs of all data sets.

    Args:
        num_classes: data set -> number of classes.
        bbox_head: as in mmdet, without ``num_classes``.
        mask_head: as in mmdet, without ``num_classes``; None for boxes only.
        kwargs: as in mmdet.
    """

    def __init__(self, num_classes: dict[str, int], bbox_head: dict, mask_head: dict | None = None,
                 **kwargs) -> None:
        super().__init__(
            bbox_head=dict(bbox_head, num_classes=1),
            mask_head=mask_head and dict(mask_head, num_classes=1), **kwargs)
        width = self.bbox_head.cls_last_dim
        self.bbox_head.fc_cls = self.bbox_head.fc_reg = nn.Identity()
        self.bbox_heads = ModuleDict({
            name: BBoxHead(in_channels=width, roi_feat_size=1, num_classes=n,
                           **_without_trunk(bbox_head))
            for name, n in num_classes.items()})
        if self.with_mask:
            width = self.mask_head.conv_out_channels
            self.mask_head.conv_logits = nn.Identity()
            self.mask_heads = ModuleDict({
                name: FCNMaskHead(num_convs=0, in_channels=width, num_classes=n,
                                  upsample_cfg=dict(type=None), **_without_trunk(mask_head))
                for name, n in num_classes.items()})

    def loss(self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch: TaskBatch,
             gt_instances: InstanceList, gt_ignored: InstanceList) -> dict[str, dict[str, Tensor]]:
        """Sample RoIs, run the trunks once, and give data set -> term -> loss.

        Args:
            x: feature maps of the neck, each ``(B, C, H, W)``.
            rpn_results_list: proposals of each image (``bboxes``).
            batch: the images and their data sets.
            gt_instances: ``bboxes``, ``labels`` (and ``masks``) of each image.
            gt_ignored: boxes of each image that are neither object nor background.
        """
        samplings = []
        for proposals, gts, ignored in zip(rpn_results_list, gt_instances, gt_ignored):
            proposals.priors = proposals.pop('bboxes')
            assigned = self.bbox_assigner.assign(proposals, gts, ignored)
            samplings.append(self.bbox_sampler.sample(assigned, proposals, gts))
        losses = self._box_losses(x, samplings, batch)
        if self.with_mask:
            for name, loss in self._mask_losses(x, samplings, batch, gt_instances).items():
                losses[name].update(loss)
        return losses

    def _box_losses(self, x: tuple[Tensor, ...], samplings: list[SamplingResult],
                    batch: TaskBatch) -> dict[str, dict[str, Tensor]]:
        rois = bbox2roi([sampling.priors for sampling in samplings])
        feats = self._bbox_forward(x, rois)['cls_score']
        counts = [sum(len(s.priors) for s in samplings[group]) for group in batch.groups.values()]
        ratios = count_ratio(counts, feats)
        losses = {}
        for (name, group), feats_k, rois_k, ratio in zip(
                batch.groups.items(), feats.split(counts), rois.split(counts), ratios):
            head = self.bbox_heads[name]
            loss = head.loss_and_target(
                *head(feats_k), rois_k, samplings[group], self.train_cfg)['loss_bbox']
            losses[name] = {k: v * ratio if 'loss' in k else v for k, v in loss.items()}
        return losses

    def _mask_losses(self, x: tuple[Tensor, ...], samplings: list[SamplingResult],
                     batch: TaskBatch, gt_instances: InstanceList) -> dict[str, dict[str, Tensor]]:
        rois = bbox2roi([sampling.pos_priors for sampling in samplings])
        feats = self._mask_forward(x, rois)['mask_preds']
        counts = [sum(len(s.pos_priors) for s in samplings[g]) for g in batch.groups.values()]
        ratios = count_ratio(counts, feats)
        losses = {}
        for (name, group), feats_k, ratio in zip(batch.groups.items(), feats.split(counts), ratios):
            head = self.mask_heads[name]
            loss = head.loss_and_target(
                head(feats_k), samplings[group], gt_instances[group], self.train_cfg)['loss_mask']
            losses[name] = {k: v * ratio for k, v in loss.items()}
        return losses

    def predict_bbox(self, x: tuple[Tensor, ...], batch_img_metas: list[dict],
                     rpn_results_list: InstanceList, rcnn_test_cfg: ConfigDict,
                     rescale: bool = False) -> InstanceList:
        """Boxes of each image from its own data set's predictor (``img_meta['dataset']``)."""
        proposals = [result.bboxes for result in rpn_results_list]
        rois = bbox2roi(proposals)
        feats = self._bbox_forward(x, rois)['cls_score']
        counts = [len(boxes) for boxes in proposals]
        results = []
        for feats_i, rois_i, meta in zip(feats.split(counts), rois.split(counts), batch_img_metas):
            head = self.bbox_heads[meta['dataset']]
            scores, deltas = head(feats_i)
            results += head.predict_by_feat(
                (rois_i,), (scores,), (deltas,), [meta], rcnn_test_cfg, rescale)
        return results

    def predict_mask(self, x: tuple[Tensor, ...], batch_img_metas: list[dict],
                     results_list: InstanceList, rescale: bool = False) -> InstanceList:
        """Masks of each image from its own data set's predictor; boxes are rescaled with them."""
        rois = bbox2roi([result.bboxes for result in results_list])
        if not len(rois):
            return empty_instances(batch_img_metas, rois.device, 'mask', results_list,
                                   mask_thr_binary=self.test_cfg.mask_thr_binary)
        feats = self._mask_forward(x, rois)['mask_preds']
        counts = [len(result) for result in results_list]
        for feats_i, result, meta in zip(feats.split(counts), results_list, batch_img_metas):
            head = self.mask_heads[meta['dataset']]
            head.predict_by_feat((head(feats_i),), [result], [meta], self.test_cfg, rescale)
        return results_list


def _without_trunk(head: dict) -> dict:
    return {key: value for key, value in head.items() if key not in TRUNK_KEYS}
