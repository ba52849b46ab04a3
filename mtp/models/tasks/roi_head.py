"""RoI heads with one trunk for all data sets and last layers per data set."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import Linear
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.utils import empty_instances
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mtp.models.deferred_bias import (
    DeferredBiasConv2d,
    RectifiedConv,
    RectifiedConvTranspose2d,
)
from mtp.models.recomputation import recomputed
from mtp.models.tasks.base import (
    TaskBatch,
    Terms,
    is_highest,
    joined,
    mark_varying,
    take_rows,
    to_device,
)
from mtp.models.tasks.ground_truth import GroundTruth
from mtp.models.tasks.mask_slots import MaskSlots
from mtp.models.tasks.rpn_head import Proposals, unit_box
from mtp.models.tasks.sampling import Samples
from mtp.registry import MODELS
from mtp.sample_fields import paint_masks

# Keys in the configs of the box and mask heads that concern the trunk alone; the others (coder,
# losses, ...) hold for the last layers too.
TRUNK_KEYS = (
    'type',
    'in_channels',
    'fc_out_channels',
    'conv_out_channels',
    'roi_feat_size',
    'num_convs',
)


@MODELS.register_module()
class SharedRoIHead(StandardRoIHead):
    """mmdet's ``StandardRoIHead`` whose heads end in one predictor per data set.

    ``bbox_head`` and ``mask_head`` become the shared trunks: their last layers are removed and
    they return features. ``bbox_heads[name]`` (``fc_cls``, ``fc_reg``) and ``mask_heads[name]``
    (``conv_logits``) are mmdet's plain ``BBoxHead`` and ``FCNMaskHead`` on these features, which
    also hold the data set's losses and post-processing. RoI features and trunks run once for the
    RoIs of all data sets. In training each image has the same number of RoIs, as many as its
    sampler draws, and masks of a quota of its positives (:mod:`mtp.mask_quota`). Padded slots have
    no part in the losses.

    Args:
        num_classes: data set -> number of classes.
        bbox_head: config of the box head, as in mmdet, without ``num_classes``.
        mask_head: config of the mask head, as in mmdet, without ``num_classes``; None for boxes
            only.
        without_masks: data sets without masks. They have a box head, but no mask head and no loss
            of masks; if all are, there is no trunk of masks either.
        kwargs: options as in mmdet; ``train_cfg`` names a :class:`BatchedMaxIoUAssigner` and a
            :class:`SeededRandomSampler`.

    Raises:
        ValueError: an option of mmdet is not supported for batches.
    """

    compiled_methods: tuple[str, ...] = ('targets', 'box_terms')
    mask_slots = staticmethod(MaskSlots.pack)
    paint_masks = staticmethod(paint_masks)

    def __init__(
        self,
        num_classes: dict[str, int],
        bbox_head: dict,
        mask_head: dict | None = None,
        without_masks: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        if set(num_classes) == set(without_masks):
            mask_head = None
        super().__init__(
            bbox_head=dict(bbox_head, num_classes=1),
            mask_head=mask_head and dict(mask_head, num_classes=1),
            **kwargs,
        )
        head = self.bbox_head
        if (
            head.reg_decoded_bbox
            or self.train_cfg.pos_weight > 0
            or not isinstance(head.loss_cls, CrossEntropyLoss)
            or head.loss_cls.use_sigmoid
            or head.loss_cls.class_weight is not None
            or head.loss_cls.ignore_index is not None
            or not head.with_reg
            or any(
                type(layer) not in (nn.Linear, Linear) or layer.bias is None
                for layer in (head.fc_cls, head.fc_reg)
            )
            or self.with_mask
            and self.mask_head.predictor_cfg['type'] != 'Conv'
        ):
            raise ValueError(
                f'{type(self).__name__} takes reg_decoded_bbox=False, pos_weight=-1, as loss_cls a '
                'CrossEntropyLoss with softmax and without class_weight and ignore_index, and '
                "predictor_cfg of type 'Linear' with bias (masks: 'Conv')"
            )
        if self.with_mask and (self.with_shared_head or self.mask_head.upsample_method != 'deconv'):
            raise ValueError(
                f"{type(self).__name__} takes mask_head.upsample_cfg.type='deconv', and with masks "
                'no shared_head'
            )
        self._columns: dict[tuple, Tensor] = {}
        width = self.bbox_head.cls_last_dim
        self.bbox_head.fc_cls = self.bbox_head.fc_reg = nn.Identity()
        self.bbox_heads = ModuleDict(
            {
                name: BBoxHead(
                    in_channels=width, roi_feat_size=1, num_classes=n, **_without_trunk(bbox_head)
                )
                for name, n in num_classes.items()
            }
        )
        if mask_head is not None:
            self.compiled_methods += ('mask_slots', 'paint_masks', 'mask_terms')
            width = self.mask_head.conv_out_channels
            self.mask_head.conv_logits = nn.Identity()
            _rectify(self.mask_head)
            self.mask_heads = ModuleDict(
                {
                    name: FCNMaskHead(
                        num_convs=0,
                        in_channels=width,
                        num_classes=n,
                        upsample_cfg=dict(type=None),
                        **_without_trunk(mask_head),
                    )
                    for name, n in num_classes.items()
                    if name not in without_masks
                }
            )

    def loss(
        self,
        x: tuple[Tensor, ...],
        x_masks: tuple[Tensor, ...],
        proposals: Proposals,
        truth: GroundTruth,
        batch: TaskBatch,
    ) -> tuple[list[Terms], list[Terms]]:
        """Sample RoIs, run the trunks once, and return terms to train by, and logged ones.

        Args:
            x: feature maps of the neck for the boxes, each ``(B, C, H, W)``.
            x_masks: feature maps of the neck for the masks.
            proposals: proposals of the images.
            truth: ground truth of the images.
            batch: images and their data sets.
        """
        with torch.no_grad():
            rois, samples, targets = self.targets(proposals, truth)
        terms = [self._box_losses(x, rois, samples, targets, batch)]
        if self._with_masks(batch):
            terms.append(self._mask_losses(x_masks, rois, samples, truth, batch))
        losses, logged = zip(*terms)
        return [*losses], [*logged]

    def targets(
        self, proposals: Proposals, truth: GroundTruth
    ) -> tuple[Tensor, Samples, tuple[Tensor, Tensor]]:
        """Sample RoIs; return them, their assignment, and their targets.

        Returns:
            tuple: RoIs ``(B, S, 1 + D)``: index of the image, -1 for a padded slot, and box in
            pixels; the samples; and, for the first ``most`` boxes, the labels ``(B, most)`` and
            the deltas to their objects ``(B, most, D)``.
        """
        boxes = proposals.boxes
        assigned = self.bbox_assigner.assign_batch(boxes, proposals.valid, truth)
        if self.bbox_sampler.add_gt_as_proposals:
            own = torch.arange(1, truth.valid.shape[1] + 1, device=boxes.device)
            own = own.expand_as(truth.valid).masked_fill(~truth.valid, -1)
            # After the proposals, whose draws thus do not depend on the slots for objects.
            boxes = torch.cat([boxes, truth.boxes], 1)
            assigned = torch.cat([assigned, own], 1)
        samples = self.bbox_sampler.sample_batch(assigned, truth.seeds)
        boxes = take_rows(boxes, samples.index)
        boxes = torch.where(samples.valid[..., None], boxes, unit_box(boxes))
        objects, labels, _ = truth.take(samples.object[:, : samples.most])
        positive = samples.positive[:, : samples.most, None]
        objects = torch.where(positive, objects, unit_box(objects))
        deltas = self.bbox_head.bbox_coder.encode(boxes[:, : samples.most], objects)
        images = torch.arange(len(boxes), device=boxes.device)[:, None]
        images = torch.where(samples.valid, images, -1).to(boxes.dtype)
        return torch.cat([images[..., None], boxes], -1), samples, (labels, deltas)

    def _box_losses(
        self,
        x: tuple[Tensor, ...],
        rois: Tensor,
        samples: Samples,
        targets: tuple[Tensor, Tensor],
        batch: TaskBatch,
    ) -> tuple[Terms, Terms]:
        heads = [self.bbox_heads[name] for name in batch.groups]
        # Of all data sets at once: a row also gets the outputs of the others, few as they are.
        outputs = F.linear(
            self._bbox_forward(x, rois.flatten(0, 1))['cls_score'],
            *joined(layer for head in heads for layer in (head.fc_cls, head.fc_reg)),
        )
        sums, counts, right = self.box_terms(
            outputs.unflatten(0, samples.valid.shape),
            *targets,
            samples.positive,
            samples.valid,
            self._columns_of(batch)[:3],
        )
        return (
            Terms(('loss_cls', 'loss_bbox'), sums, counts.expand_as(sums)),
            Terms(('acc',), right[None], counts[None]),
        )

    def box_terms(
        self,
        outputs: Tensor,
        labels: Tensor,
        targets: Tensor,
        positive: Tensor,
        valid: Tensor,
        columns: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum the losses of each image's boxes, and count the boxes.

        Args:
            outputs: outputs of the last layers of all data sets, ``(B, S, N)``: logits of the
                classes and of background, then deltas, for each class or for all.
            labels: classes of the objects, int64 ``(B, most)``.
            targets: deltas to the objects, ``(B, most, D)``.
            positive: whether each box is a positive sample, bool ``(B, S)``.
            valid: whether each slot holds a sample, bool ``(B, S)``.
            columns: places of each image's own outputs, see :meth:`_columns_of`.

        Returns:
            tuple: sums of the classification and the box losses, ``(2, B)``; numbers of boxes, and
            of right ones among them, float32 ``(B,)``.
        """
        head, outputs = self.bbox_head, outputs.float()
        most, others = labels.shape[1], valid.shape[1] - labels.shape[1]
        first, background, deltas = columns[..., None].unbind()
        column = torch.arange(outputs.shape[2], device=outputs.device)
        own = (column >= first[..., None]) & (column <= background[..., None])
        # not by infinity, which would look like the fault that --replay searches for
        logits = outputs.where(own, torch.finfo(outputs.dtype).min).flatten(0, 1)
        wanted = torch.where(positive, first + F.pad(labels, (0, others)), background).flatten()
        loss_cls = head.loss_cls(logits, wanted, reduction_override='none').view_as(valid)
        right = is_highest(logits, wanted).view_as(valid) & valid

        size = targets.shape[2]
        if not head.reg_class_agnostic:
            deltas = deltas + labels * size
        places = deltas[..., None] + torch.arange(size, device=deltas.device)
        # not gathered: the gradient would be scattered
        chosen = column == places[..., None]
        predicted = torch.where(chosen, outputs[:, :most, None], 0).sum(3)
        loss_bbox = head.loss_bbox(predicted, targets, reduction_override='none').sum(2)
        sums = (loss_cls * valid).sum(1), (loss_bbox * positive[:, :most]).sum(1)
        return torch.stack(sums), valid.sum(1).float(), right.sum(1).float()

    def _columns_of(self, batch: TaskBatch) -> Tensor:
        """Return where each image's outputs are among those of all data sets of the batch.

        Made once for all batches of the same data sets and numbers of images.

        Returns:
            Tensor: of the box heads' outputs the first class, background and the first delta, of
            the classes with masks the first (-1: none), int64 ``(4, B)``.
        """
        key = (*batch.groups, *batch.sizes, batch.device)
        if key not in self._columns:
            columns, first, first_mask, with_masks = [], 0, 0, self._with_masks(batch)
            for name, images in zip(batch.groups, batch.sizes):
                head, masks = self.bbox_heads[name], name in with_masks
                background = first + head.num_classes
                places = first, background, background + 1, first_mask if masks else -1
                columns += images * [places]
                first = background + 1 + head.fc_reg.out_features
                first_mask += head.num_classes if masks else 0
            self._columns[key] = to_device([*zip(*columns)], batch.device, torch.int64)
        return self._columns[key]

    def _with_masks(self, batch: TaskBatch) -> list[str]:
        return [name for name in batch.groups if self.with_mask and name in self.mask_heads]

    def _mask_losses(
        self,
        x: tuple[Tensor, ...],
        rois: Tensor,
        samples: Samples,
        truth: GroundTruth,
        batch: TaskBatch,
    ) -> tuple[Terms, Terms]:
        assert truth.masks is not None  # as TwoStageTask.loss collects it
        names = self._with_masks(batch)
        heads = [self.mask_heads[name] for name in names]
        capacity = min(truth.mask_slots, samples.most * len(rois))
        with torch.no_grad():
            slots = self.mask_slots(
                rois[..., 1:],
                samples,
                truth,
                self._columns_of(batch)[3],
                sum(head.num_classes for head in heads),
                mark_varying(torch.arange(capacity, device=batch.device), 0),
                truth.masks['shape'],
            )
            masks = self.paint_masks(**truth.masks, dtype=torch.float32)
            targets = slots.targets(masks, self.train_cfg.mask_size)
        feats = self._mask_features(x, slots.rois)
        # The upsampled features would be the largest tensor that the step keeps.
        logits = recomputed(self._mask_logits, feats, *slots.last_layers(heads))
        sums = self.mask_terms(
            mark_varying(logits, 0), mark_varying(targets, 0), mark_varying(slots.images, 0)
        )
        return (
            Terms(('loss_mask',), sums[None], slots.counts[None], names),
            Terms(('masks_left_out',), slots.left_out[None], slots.positives[None], names),
        )

    def _mask_features(self, x: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return the features of RoIs that the mask trunk upsamples, ``(R, channels, h, w)``."""
        extractor = self.mask_roi_extractor
        feats = extractor(x[: extractor.num_inputs], rois)
        for conv in self.mask_head.convs:
            feats = conv(feats)
        return feats

    def _mask_logits(self, feats: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return logits ``(C, H, W)`` of features before their upsampling.

        Args:
            feats: features of C slots, ``(C, channels, h, w)``.
            weight: weight of each slot's last layer, ``(C, channels, 1)``.
            bias: bias of each slot's last layer, ``(C, 1, 1)``.
        """
        feats = self.mask_head.upsample(feats)
        # channels last, so that the gradient is too
        rows = feats.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.baddbmm(bias, rows, weight).view(-1, *feats.shape[2:])

    def mask_terms(self, logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        """Sum the mask losses of each image, ``(B,)``.

        Args:
            logits: logits of the masks of C slots, ``(C, size, size)``.
            targets: share of each pixel that is in the mask, float32 ``(C, size, size)``.
            images: one-hot index of each slot's image, float32 ``(C, B)``.
        """
        losses = F.binary_cross_entropy_with_logits(
            logits.float(), (targets >= 0.5).float(), reduction='none'
        )
        losses = losses.mean((1, 2)) * self.mask_head.loss_mask.loss_weight
        return (losses[:, None] * images).sum(0)

    def predict_bbox(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        rpn_results_list: InstanceList,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
    ) -> InstanceList:
        """Predict each image's boxes by the head of its data set (``img_meta['dataset']``)."""
        proposals = [result.bboxes for result in rpn_results_list]
        rois = bbox2roi(proposals)
        feats = self._bbox_forward(x, rois)['cls_score']
        counts = [len(boxes) for boxes in proposals]
        results = []
        for feats_i, rois_i, meta in zip(feats.split(counts), rois.split(counts), batch_img_metas):
            head = self.bbox_heads[meta['dataset']]
            scores, deltas = head(feats_i)
            results += head.predict_by_feat(
                (rois_i,), (scores,), (deltas,), [meta], rcnn_test_cfg, rescale
            )
        return results

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        results_list: InstanceList,
        rescale: bool = False,
    ) -> InstanceList:
        """Predict each image's masks by the head of its data set; rescale boxes with them."""
        rois = bbox2roi([result.bboxes for result in results_list])
        if not len(rois):
            empty_instances(
                batch_img_metas,
                rois.device,
                'mask',
                results_list,
                mask_thr_binary=self.test_cfg.mask_thr_binary,
            )
            for result, meta in zip(results_list, batch_img_metas):
                if meta['dataset'] not in self.mask_heads:
                    del result.masks
            return results_list
        feats = self.mask_head.upsample(self._mask_features(x, rois))
        counts = [len(result) for result in results_list]
        for feats_i, result, meta in zip(feats.split(counts), results_list, batch_img_metas):
            if meta['dataset'] not in self.mask_heads:
                if rescale:  # the boxes, as a mask head does
                    factor = result.bboxes.new_tensor(meta['scale_factor']).repeat(2)
                    result.bboxes = result.bboxes / factor
                continue
            head = self.mask_heads[meta['dataset']]
            head.predict_by_feat((head(feats_i),), [result], [meta], self.test_cfg, rescale)
        return results_list


def _rectify(head: FCNMaskHead) -> None:
    """Let the convolutions of a mask head do their ReLUs, with the same parameters."""
    for module in head.convs:
        if module.conv_cfg is None and module.norm_cfg is None:
            module.__class__, module.conv.__class__ = RectifiedConv, DeferredBiasConv2d
    head.upsample.__class__, head.relu = RectifiedConvTranspose2d, nn.Identity()


def _without_trunk(head: dict) -> dict:
    return {key: value for key, value in head.items() if key not in TRUNK_KEYS}
