"""Region proposals of all images at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import RPNHead
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from mmrotate.models.dense_heads import OrientedRPNHead
from mmrotate.structures.bbox import rbox2hbox
from torch import Tensor

from mtp.models.deferred_bias import DeferredBiasConv2d
from mtp.models.tasks.base import Terms, joined, take_rows
from mtp.models.tasks.canvas import Canvas, Paste
from mtp.models.tasks.ground_truth import GroundTruth
from mtp.models.tasks.sampling import Samples
from mtp.ops import bias_relu, kept_horizontal, sort_rows
from mtp.registry import MODELS


@dataclass
class Proposals:
    """Proposals by descending score, padded to P slots per image; a box has D numbers.

    Attributes:
        boxes: boxes, ``(B, P, D)``, pixels (and radians).
        valid: whether each slot holds a proposal, bool ``(B, P)``.
    """

    boxes: Tensor
    valid: Tensor


@dataclass
class Anchors:
    """The N anchors of all levels.

    Attributes:
        boxes: boxes (x1, y1, x2, y2), ``(N, 4)``, pixels.
        origins: top-left corners (x, y) of the anchors' cells, ``(N, 2)``, pixels.
        counts: number of anchors of each level.
        first: height and width of the first level.
        canvas: layout of the other levels on one map.
        scores, deltas: place of each anchor's logit, and of its first delta, among an image's
            outputs, int64 ``(N,)``.
    """

    boxes: Tensor
    origins: Tensor
    counts: list[int]
    first: tuple[int, int]
    canvas: Canvas
    scores: Tensor
    deltas: Tensor

    def levels(self, outputs: Tensor) -> list[Tensor]:
        """Cut the head's outputs, ``(B, P, C)``, into the maps of all levels, ``(B, C, H, W)``."""
        sizes = self.first, (self.canvas.height, self.canvas.width)
        first, others = (
            rows.unflatten(1, size).permute(0, 3, 1, 2)
            for rows, size in zip(outputs.split([h * w for h, w in sizes], 1), sizes)
        )
        return [first, *self.canvas.cut(others)]


class _BatchedRPN(RPNHead):
    """RPN head of mmdet or mmrotate with batched losses and proposals.

    They equal what that head does image by image, except that an image in which no anchor fits
    adds no loss instead of being refused. ``train_cfg`` names a :class:`BatchedMaxIoUAssigner` and
    a :class:`SeededRandomSampler`.
    """

    compiled_methods = ('paste', 'targets', 'terms', 'ranked')
    paste = staticmethod(Canvas.paste)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if (
            not self.use_sigmoid_cls
            or self.reg_decoded_bbox
            or self.train_cfg.pos_weight > 0
            or self.num_convs > 1  # a second one would not find zeros between the levels
            or len(self.prior_generator.strides) == 1
        ):
            raise ValueError(
                f'{type(self).__name__} takes a sigmoid loss_cls, reg_decoded_bbox=False, '
                'pos_weight=-1, num_convs=1 and anchors of two levels or more'
            )
        self.rpn_conv.__class__ = DeferredBiasConv2d  # with the same parameters
        self._anchors: dict[tuple, Anchors] = {}

    def to_horizontal(self, boxes: Tensor) -> Tensor:
        """Return the boxes ``(..., 4)`` by which proposals compete in suppression."""
        return boxes

    def clip(self, boxes: Tensor, shapes: Tensor) -> Tensor:
        """Clip proposals ``(B, N, D)`` to their images; ``shapes``: see ``TaskBatch.shapes``."""
        height, width = shapes[:, 2:, None].unbind(1)
        x1, y1, x2, y2 = boxes.clamp(min=0).unbind(-1)
        return torch.stack(
            [x1.minimum(width), y1.minimum(height), x2.minimum(width), y2.minimum(height)], -1
        )

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, Anchors]:
        """Predict on two maps: the largest level, and a canvas with the others.

        The small levels alone would not fill a GPU. The last layers of both maps are one product.

        Args:
            feats: feature maps of the levels, ``(B, C, H, W)`` each, the largest first.

        Returns:
            tuple: outputs ``(B, P, A + A * E)`` of the P pixels of both maps: logits of A anchors
            per pixel, then E deltas of each; and the anchors.
        """
        anchors = self._anchors_of(feats)
        maps = feats[0], Paste.apply(anchors.canvas, self.paste, *feats[1:])
        rows = bias_relu([self.rpn_conv(x) for x in maps], self.rpn_conv.bias)
        weight, bias = joined([self.rpn_cls, self.rpn_reg])
        return F.linear(rows, weight.flatten(1), bias), anchors

    def loss_batch(
        self,
        outputs: Tensor,
        anchors: Anchors,
        truth: GroundTruth,
        shapes: Tensor,
    ) -> Terms:
        """Return the terms ``loss_rpn_cls`` and ``loss_rpn_bbox``, sums over sampled anchors.

        Args:
            outputs, anchors: results of :meth:`forward`.
            truth: ground truth of the images.
            shapes: heights and widths of the images, see ``TaskBatch.shapes``.
        """
        with torch.no_grad():
            samples, targets = self.targets(anchors, truth, shapes)
        sums, counts = self.terms(outputs, anchors, samples, targets)
        return Terms(('loss_rpn_cls', 'loss_rpn_bbox'), sums, counts.expand_as(sums))

    def targets(
        self, anchors: Anchors, truth: GroundTruth, shapes: Tensor
    ) -> tuple[Samples, Tensor]:
        """Sample anchors; return them and the deltas ``(B, most, E)`` from positives to objects.

        Args:
            anchors: anchors of all levels.
            truth: ground truth of the images.
            shapes: heights and widths of the images, see ``TaskBatch.shapes``.
        """
        boxes = anchors.boxes.expand(len(shapes), -1, -1)
        assigned = self.assigner.assign_batch(boxes, self._inside(anchors, shapes), truth)
        samples = self.sampler.sample_batch(assigned, truth.seeds)
        objects, *_ = truth.take(samples.object[:, : samples.most])
        positive = samples.positive[:, : samples.most, None]
        return samples, self.bbox_coder.encode(
            take_rows(boxes, samples.index[:, : samples.most]),
            torch.where(positive, objects, unit_box(objects)),
        )

    def terms(
        self, outputs: Tensor, anchors: Anchors, samples: Samples, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return each image's sums of both losses, ``(2, B)``, and number of anchors, ``(B,)``."""
        most = samples.most
        places = anchors.scores[samples.index], self._delta_places(anchors, samples.index[:, :most])
        index = torch.cat([p.flatten(1) for p in places], 1)
        # In one gather, whose gradient fills one tensor. Not one by image: inductor would take the
        # sums below for sums over an outer dimension, and split them.
        images = torch.arange(len(index), device=index.device)[:, None]
        index = index + images * outputs[0].numel()
        logits, predicted = (
            outputs.flatten().gather(0, index.flatten()).view_as(index).float()
        ).split([p[0].numel() for p in places], 1)
        predicted = predicted.view(places[1].shape)
        loss_cls = self.loss_cls(
            logits.reshape(-1, 1),
            samples.positive.float().reshape(-1, 1),
            reduction_override='none',
        ).view_as(samples.valid)
        loss_bbox = self.loss_bbox(predicted, targets, reduction_override='none').sum(2)
        # mmdet counts at least one anchor of either kind in an image
        positives = samples.positive.sum(1)
        counts = positives.clamp(min=1) + (samples.valid.sum(1) - positives).clamp(min=1)
        sums = (loss_cls * samples.valid).sum(1), (loss_bbox * samples.positive[:, :most]).sum(1)
        return torch.stack(sums), counts.float()

    def propose(
        self, outputs: Tensor, anchors: Anchors, shapes: Tensor, cfg: ConfigDict
    ) -> Proposals:
        """Decode, suppress and rank the proposals of each image.

        Args:
            outputs, anchors: results of :meth:`forward`.
            shapes: heights and widths of the images, see ``TaskBatch.shapes``.
            cfg: config with ``nms_pre``, ``max_per_img``, ``min_bbox_size`` and ``nms``
                (``iou_threshold``; each level apart), as in mmdet.

        Raises:
            ValueError: the type of ``nms`` is not ``'nms'``.
        """
        if cfg.nms.type != 'nms':
            raise ValueError(f'nms={dict(cfg.nms)}: proposals need the type "nms"')
        with torch.no_grad():
            return self.ranked(
                outputs,
                anchors,
                shapes,
                cfg.nms_pre,
                cfg.max_per_img,
                cfg.min_bbox_size,
                cfg.nms.iou_threshold,
            )

    def ranked(
        self,
        outputs: Tensor,
        anchors: Anchors,
        shapes: Tensor,
        nms_pre: int,
        most: int,
        min_size: float,
        threshold: float,
    ) -> Proposals:
        """Do the work of :meth:`propose`, given tensors and numbers alone."""
        # by logits: sigmoid gives the same score to all that are certain
        scores = [
            level[:, : self.num_base_priors].permute(0, 2, 3, 1).flatten(1)
            for level in anchors.levels(outputs)
        ]
        # each level of an image is a group of its own, padded to the largest
        logits, chosen, there = [], [], []
        first, size = 0, max(anchors.counts)
        if nms_pre > 0:  # else there is no limit, as in mmdet
            size = min(nms_pre, size)
        for (score, index), count in zip(_sorted_levels(scores, size), anchors.counts):
            logits.append(score.float())
            there.append(index < count)
            chosen.append(torch.where(there[-1], index, 0) + first)
            first += count
        index, valid = torch.stack(chosen, 1), torch.stack(there, 1)
        places = self._delta_places(anchors, index)
        steps = outputs.flatten(1).gather(1, places.flatten(1)).view(places.shape).float()
        boxes = self.bbox_coder.decode(anchors.boxes[index].flatten(1, 2), steps.flatten(1, 2))
        boxes = self.clip(get_box_tensor(boxes), shapes)
        width, height = _sides(boxes)
        valid &= ((width > min_size) & (height > min_size)).view_as(valid)
        kept = kept_horizontal(
            self.to_horizontal(boxes).view(-1, size, 4), valid.flatten(0, 1), threshold
        )
        ranks = torch.stack(logits, 1).masked_fill(~kept.view_as(valid), -torch.inf)
        best, index = sort_rows(ranks.flatten(1))
        return Proposals(take_rows(boxes, index[:, :most]), best[:, :most] > -torch.inf)

    def _delta_places(self, anchors: Anchors, index: Tensor) -> Tensor:
        """Return where the deltas of anchors ``(B, ...)`` are in the outputs, ``(B, ..., E)``."""
        return anchors.deltas[index][..., None] + torch.arange(
            self.bbox_coder.encode_size, device=index.device
        )

    def _anchors_of(self, maps: Sequence[Tensor]) -> Anchors:
        sizes, device = [(m.shape[-2], m.shape[-1]) for m in maps], maps[0].device
        key = (*sizes, device)
        if key not in self._anchors:
            generator = self.prior_generator
            boxes = [get_box_tensor(b) for b in generator.grid_priors(sizes, device=device)]
            origins = []
            for (height, width), (across, down), n in zip(
                sizes, generator.strides, generator.num_base_priors
            ):
                y, x = torch.meshgrid(
                    torch.arange(height, device=device) * down,
                    torch.arange(width, device=device) * across,
                    indexing='ij',
                )
                origins.append(torch.stack([x, y], -1).flatten(0, 1).repeat_interleave(n, 0))
            canvas = Canvas.of(sizes[1:])
            places = _places(sizes[0], canvas, self.num_base_priors, self.bbox_coder.encode_size)
            self._anchors[key] = Anchors(
                torch.cat(boxes),
                torch.cat(origins),
                [len(b) for b in boxes],
                sizes[0],
                canvas,
                *(of_kind.to(device) for of_kind in places),
            )
        return self._anchors[key]

    def _inside(self, anchors: Anchors, shapes: Tensor) -> Tensor:
        """Return which anchors ``(B, N)`` may be trained, by their cell and ``allowed_border``."""
        padded_h, padded_w, height, width = shapes[..., None].unbind(1)
        x, y = anchors.origins.unbind(1)
        inside = (x < padded_w) & (y < padded_h)
        border = self.train_cfg.allowed_border
        if border >= 0:
            x1, y1, x2, y2 = anchors.boxes.unbind(1)
            inside &= (
                (x1 >= -border) & (y1 >= -border) & (x2 < width + border) & (y2 < height + border)
            )
        return inside


@MODELS.register_module()
class MultiDatasetRPNHead(_BatchedRPN):
    """mmdet's ``RPNHead`` on the images of all data sets at once."""


@MODELS.register_module()
class MultiDatasetOrientedRPNHead(_BatchedRPN, OrientedRPNHead):
    """mmrotate's ``OrientedRPNHead`` on the images of all data sets at once."""

    def to_horizontal(self, boxes: Tensor) -> Tensor:
        return rbox2hbox(boxes)

    def clip(self, boxes: Tensor, shapes: Tensor) -> Tensor:
        return boxes


def _sorted_levels(scores: Sequence[Tensor], size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the highest scores of each level and their indices, ``(B, size)`` each.

    Ties are in order. Small levels are padded; padding has indices of at least the level's size.
    All levels but the first, which is the largest, are sorted together: a sort takes several
    launches, whatever its size.

    Args:
        scores: scores of each level, ``(B, N)``.
        size: number of scores to return, at most N of the first level.
    """
    first, *others = scores
    most = max(size, *(level.shape[1] for level in others))
    padded = torch.stack(
        [F.pad(level, (0, most - level.shape[1]), value=-torch.inf) for level in others]
    )
    together = (found.view_as(padded)[..., :size] for found in sort_rows(padded.flatten(0, 1)))
    return [tuple(found[:, :size] for found in sort_rows(first)), *zip(*together)]


def unit_box(like: Tensor) -> Tensor:
    """Return a box of width and height 1, ``(D,)``, which fills padded slots."""
    dims = like.shape[-1]
    return F.pad(like.new_ones(2), (2, dims - 4))


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    if boxes.shape[-1] == 5:
        return boxes[..., 2], boxes[..., 3]
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def _places(
    first: tuple[int, int], canvas: Canvas, anchors: int, numbers: int
) -> tuple[Tensor, Tensor]:
    """Return ``scores`` and ``deltas`` of :class:`Anchors`.

    Args:
        first: height and width of the first level.
        canvas: layout of the other levels.
        anchors: number of anchors per cell.
        numbers: number of deltas of an anchor.
    """
    height, width = first
    rows = torch.arange(height * width + canvas.height * canvas.width)
    of_first, others = rows.tensor_split([height * width])
    levels = canvas.cut(others.view(canvas.height, canvas.width))
    starts = torch.cat([of_first, *(level.flatten() for level in levels)])[:, None]
    starts, anchor = starts * anchors * (1 + numbers), torch.arange(anchors)
    return (starts + anchor).flatten(), (starts + anchors + anchor * numbers).flatten()
