"""Detectors as graphs: what mmdet computes by selecting boxes one image at a time, in fixed shapes.

Boxes that NMS chooses within a model differ in number by image. Here all slots stay, and a box that
is left out has score 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from mmdet.structures.bbox import get_box_tensor
from mmrotate.structures.bbox import rbox2hbox
from torch import Tensor, nn

MOST_BOXES = 1000  # candidates of an image before the last NMS


class ModelForm(nn.Module):
    """Model in the form that is exported, from one tensor of images to a tuple of tensors.

    Args:
        model: the model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model


class OneStage(ModelForm):
    """mmdet's ``RetinaNet``: boxes of all anchors, with their scores."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return boxes ``(B, A, 4)`` in pixels, and scores ``(B, A, K)``."""
        head = self.model.bbox_head
        scores, deltas = self.model._forward(images)
        sizes = [level.shape[-2:] for level in scores]
        anchors = torch.cat(head.prior_generator.grid_priors(sizes, device=images.device))
        scores, deltas = (
            torch.cat([_by_anchor(level, of_one) for level in part], 1)
            for part, of_one in ((scores, head.num_classes), (deltas, 4))
        )
        boxes = head.bbox_coder.decode(
            anchors.expand(deltas.shape[0], -1, -1), deltas, max_shape=images.shape[2:]
        )
        return boxes, scores.sigmoid()


class TwoStage(ModelForm):
    """mmdet's ``FasterRCNN``, horizontal or oriented, for a single image, up to its last NMS."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return boxes and scores of the proposals.

        Returns:
            tuple: boxes in pixels (and radians), ``(1, P, K, 4)`` for each class, or ``(1, P, 5)``
            for all; scores ``(1, P, K)``, 0 in a slot that no proposal fills.
        """
        size = images.shape[2:]
        maps = self.model.extract_feat(images)
        proposals, filled = self._propose(maps, size)
        head = self.model.roi_head.bbox_head
        logits, deltas = head(self._pool(maps, proposals))
        boxes = get_box_tensor(head.bbox_coder.decode(proposals, deltas, max_shape=size))
        if not head.reg_class_agnostic:
            boxes = boxes.unflatten(1, (head.num_classes, -1))
        scores = logits.softmax(1)[:, :-1] * filled[:, None]
        return boxes[None], scores[None]

    def _propose(self, maps: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the boxes of the first stage ``(P, 4 or 5)``, and which of them NMS has kept."""
        head, cfg = self.model.rpn_head, self.model.test_cfg.rpn
        sizes = [level.shape[-2:] for level in maps]
        levels = head.prior_generator.grid_priors(sizes, device=maps[0].device)
        parts = []
        for number, (logits, deltas, anchors) in enumerate(zip(*head(maps), levels)):
            scores = _by_anchor(logits, 1)[0, :, 0].sigmoid()
            best, index = scores.topk(min(cfg.nms_pre, len(scores)))
            deltas = _by_anchor(deltas, head.bbox_coder.encode_size)[0, index]
            level = torch.full_like(index, number)
            parts.append((best, get_box_tensor(anchors)[index], deltas, level))
        scores, anchors, deltas, level = map(torch.cat, zip(*parts))
        boxes = get_box_tensor(head.bbox_coder.decode(anchors, deltas, max_shape=size))
        width, height = (boxes[:, 2:4] - (boxes[:, :2] if boxes.shape[1] == 4 else 0)).unbind(1)
        least = cfg.get('min_bbox_size', -1)
        if least >= 0:
            scores = scores.where((width > least) & (height > least), 0)
        frames = boxes if boxes.shape[1] == 4 else rbox2hbox(boxes)
        kept = torchvision.ops.nms(_apart(frames, level), scores, cfg.nms.iou_threshold)
        chosen = torch.zeros_like(scores).scatter(0, kept, scores[kept])
        chosen, index = chosen.topk(min(cfg.max_per_img, len(chosen)))
        return boxes[index], chosen > 0

    def _pool(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Return the features of boxes ``(P, C, height, width)``, each of the level of its size."""
        extractor = self.model.roi_head.bbox_roi_extractor
        rois = F.pad(boxes, (1, 0))
        maps = maps[: extractor.num_inputs]
        levels = extractor.map_roi_levels(rois, len(maps))
        layer, strides = extractor.roi_layers[0], extractor.featmap_strides
        bins, ratio = layer.output_size, layer.sampling_ratio
        if boxes.shape[1] == 5:
            return pool_rotated(maps, boxes, levels, bins, strides, ratio)
        pooled = torch.zeros(())
        for number, (level, stride) in enumerate(zip(maps, strides)):
            of_level = torchvision.ops.roi_align(level, rois, bins, 1 / stride, ratio, aligned=True)
            pooled = of_level.where((levels == number)[:, None, None, None], pooled)
        return pooled


class Suppressing(nn.Module):
    """A detector of horizontal boxes with NMS of each class, for a single image.

    Args:
        detector: detector up to its last NMS.
        cfg: mmdet's settings of this NMS: ``score_thr``, and ``nms`` with ``iou_threshold``.
    """

    def __init__(self, detector: OneStage | TwoStage, cfg: Any) -> None:
        super().__init__()
        self.detector = detector
        self.least, self.overlap = cfg.score_thr, cfg.nms.iou_threshold

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return boxes ``(D, 4)``, scores and labels ``(D,)`` that are kept, by falling score."""
        boxes, scores = (part[0] for part in self.detector(images))
        classes = scores.shape[1]
        score, index = scores.flatten().topk(min(MOST_BOXES, scores.numel()))
        labels = index % classes
        boxes = boxes.flatten(0, 1)[index] if boxes.dim() == 3 else boxes[index // classes]
        kept = torchvision.ops.nms(_apart(boxes, labels), score, self.overlap)
        kept = kept[score[kept] > self.least]
        return boxes[kept], score[kept], labels[kept]


def pool_rotated(
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    bins: Sequence[int],
    strides: Sequence[int],
    ratio: int,
) -> Tensor:
    """Pool rotated boxes of a single image as :func:`mtp.ops.roi_align_levels`, by ``grid_sample``.

    The maps are laid below each other, so that each box is sampled once.

    Args:
        maps: feature maps of the levels, ``(1, C, H, W)`` each.
        boxes: cx, cy, w, h in image pixels, theta in radians, clockwise on screen; ``(P, 5)``.
        levels: level of each box, ``(P,)``.
        bins: number of bins (height, width).
        strides: stride of each level, image pixels.
        ratio: samples per bin and axis, from 1 on.

    Returns:
        Tensor: ``(P, C, height, width)``.
    """
    width = max(level.shape[3] for level in maps)
    canvas = torch.cat([F.pad(level, (0, width - level.shape[3])) for level in maps], 2)
    heights = [level.shape[2] for level in maps]
    about = boxes.new_tensor(
        [
            [1 / stride, level.shape[2], level.shape[3], sum(heights[:number])]
            for number, (level, stride) in enumerate(zip(maps, strides))
        ]
    )
    scale, high, wide, first = about[levels][:, :, None, None].unbind(1)
    centre_x, centre_y = (boxes[:, i, None, None] * scale - 0.5 for i in (0, 1))
    u, v = (
        ((torch.arange(count * ratio) + 0.5) / (count * ratio) - 0.5)
        * (boxes[:, i, None] * scale[:, 0])
        for i, count in ((2, bins[1]), (3, bins[0]))
    )
    u, v = u[:, None, :], v[:, :, None]
    cos, sin = boxes[:, 4, None, None].cos(), boxes[:, 4, None, None].sin()
    x, y = u * cos - v * sin + centre_x, u * sin + v * cos + centre_y
    inside = (x >= -1) & (x <= wide) & (y >= -1) & (y <= high)
    x, y = (torch.minimum(each.clamp(min=0), side - 1) for each, side in ((x, wide), (y, high)))
    grid = torch.stack(
        [
            2 * x / max(width - 1, 1) - 1,
            2 * (y + first) / max(sum(heights) - 1, 1) - 1,
        ],
        -1,
    )
    samples = F.grid_sample(
        canvas, grid.flatten(0, 1)[None], padding_mode='border', align_corners=True
    )
    samples = samples[0].unflatten(1, grid.shape[:2]).transpose(0, 1) * inside[:, None]
    return F.avg_pool2d(samples, ratio)


def _by_anchor(level: Tensor, channels: int) -> Tensor:
    """Return a head's map ``(B, A * channels, H, W)`` as ``(B, H * W * A, channels)``."""
    return level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, channels))


def _apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """Return boxes moved so that those of different groups never overlap, as mmcv's NMS does."""
    return boxes + groups[:, None] * (boxes.max() - boxes.min() + 1)
