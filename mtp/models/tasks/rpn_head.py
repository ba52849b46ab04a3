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

from mtp.models.tasks.base import TaskBatch, average, take_rows
from mtp.models.tasks.canvas import Canvas
from mtp.models.tasks.ground_truth import GroundTruth
from mtp.models.tasks.sampling import Samples
from mtp.ops import kept_horizontal, sort_rows
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
        canvas: layout of all levels but the first on the second map of the head's outputs.
        places: row of each anchor in these outputs, flattened by :func:`_flatten`, int64 ``(N,)``.
    """

    boxes: Tensor
    origins: Tensor
    counts: list[int]
    canvas: Canvas
    places: Tensor

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Cut the head's two output maps of a kind, ``(B, C, H, W)``, into those of all levels."""
        first, others = maps
        return [first, *self.canvas.cut(others)]


class _BatchedRPN(RPNHead):
    """RPN head of mmdet or mmrotate with batched losses and proposals.

    They equal what that head does image by image, except that an image in which no anchor fits
    adds no loss instead of being refused. ``train_cfg`` names a :class:`BatchedMaxIoUAssigner` and
    a :class:`SeededRandomSampler`.
    """

    compiled_methods = ('targets', 'terms', 'ranked')

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

    def forward(
        self, feats: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Anchors]:
        """Predict on two maps: the largest level, and a canvas with the others.

        The small levels alone would not fill a GPU.

        Args:
            feats: feature maps of the levels, ``(B, C, H, W)`` each, the largest first.

        Returns:
            tuple: logits ``(B, A, H, W)`` and deltas ``(B, A * E, H, W)`` of A anchors per cell, E
            numbers per anchor, for each of the two maps; and the anchors.
        """
        anchors = self._anchors_of(feats)
        maps = feats[0], anchors.canvas.paste(feats[1:])
        scores, deltas = zip(*map(self.forward_single, maps))
        return scores, deltas, anchors

    def loss_batch(
        self,
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Anchors,
        truth: GroundTruth,
        batch: TaskBatch,
    ) -> dict[str, dict[str, Tensor]]:
        """Compute losses per data set, averaged over the anchors of all processes.

        Args:
            scores, deltas, anchors: results of :meth:`forward`.
            truth: ground truth of the images.
            batch: images and their data sets.

        Returns:
            dict: data set -> ``loss_rpn_cls`` and ``loss_rpn_bbox``.
        """
        with torch.no_grad():
            samples, targets = self.targets(anchors, truth, batch.shapes)
        sums, counts = self.terms(scores, deltas, anchors, samples, targets)
        losses = average(batch.sums(sums), batch.sums(counts))
        return {
            name: dict(loss_rpn_cls=cls, loss_rpn_bbox=bbox)
            for name, cls, bbox in zip(batch.groups, *losses)
        }

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
        self,
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Anchors,
        samples: Samples,
        targets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return each image's sums of both losses, ``(2, B)``, and number of anchors, ``(B,)``."""
        most = samples.most
        logits = _take(scores, anchors.places[samples.index], 1)
        predicted = _take(
            deltas, anchors.places[samples.index[:, :most]], self.bbox_coder.encode_size
        )
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
        self,
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Anchors,
        batch: TaskBatch,
        cfg: ConfigDict,
    ) -> Proposals:
        """Decode, suppress and rank the proposals of each image.

        Args:
            scores, deltas, anchors: results of :meth:`forward`.
            batch: images and their data sets.
            cfg: config with ``nms_pre``, ``max_per_img``, ``min_bbox_size`` and ``nms``
                (``iou_threshold``; each level apart), as in mmdet.

        Raises:
            ValueError: the type of ``nms`` is not ``'nms'``.
        """
        if cfg.nms.type != 'nms':
            raise ValueError(f'nms={dict(cfg.nms)}: proposals need the type "nms"')
        with torch.no_grad():
            return self.ranked(
                scores,
                deltas,
                anchors,
                batch.shapes,
                cfg.nms_pre,
                cfg.max_per_img,
                cfg.min_bbox_size,
                cfg.nms.iou_threshold,
            )

    def ranked(
        self,
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Anchors,
        shapes: Tensor,
        nms_pre: int,
        most: int,
        min_size: float,
        threshold: float,
    ) -> Proposals:
        """Do the work of :meth:`propose`, given tensors and numbers alone."""
        logits, chosen, first = [], [], 0
        for score, count in zip(anchors.levels(scores), anchors.counts):
            # by logits: sigmoid gives the same score to all that are certain
            score, index = _highest(_flatten([score], 1)[..., 0], nms_pre)
            logits.append(score.float())
            chosen.append(index + first)
            first += count
        counts, index = [level.shape[1] for level in logits], torch.cat(chosen, 1)
        steps = _take(deltas, anchors.places[index], self.bbox_coder.encode_size)
        boxes = self.bbox_coder.decode(anchors.boxes[index], steps)
        boxes = self.clip(get_box_tensor(boxes), shapes)
        width, height = _sides(boxes)
        valid = (width > min_size) & (height > min_size)
        kept = self._suppress(self.to_horizontal(boxes), valid, counts, threshold)
        best, index = _highest(torch.cat(logits, 1).masked_fill(~kept, -torch.inf), most)
        return Proposals(take_rows(boxes, index), best > -torch.inf)

    @staticmethod
    def _suppress(boxes: Tensor, valid: Tensor, counts: list[int], threshold: float) -> Tensor:
        """Return which boxes ``(B, N)`` are kept; each level of an image is a group of its own."""
        most = max(counts)
        boxes = torch.stack(
            [F.pad(level, (0, 0, 0, most - level.shape[1])) for level in boxes.split(counts, 1)], 1
        )
        valid = torch.stack(
            [F.pad(level, (0, most - level.shape[1])) for level in valid.split(counts, 1)], 1
        )
        kept = kept_horizontal(boxes.flatten(0, 1), valid.flatten(0, 1), threshold)
        kept = kept.unflatten(0, (-1, len(counts)))
        return torch.cat([kept[:, i, :count] for i, count in enumerate(counts)], 1)

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
            self._anchors[key] = Anchors(
                torch.cat(boxes),
                torch.cat(origins),
                [len(b) for b in boxes],
                canvas,
                _places(sizes[0], canvas, self.num_base_priors).to(device),
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


def _highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` highest scores and their indices, ``(B, count)`` each, ties in order."""
    scores, index = sort_rows(scores)
    return scores[:, :count], index[:, :count]


def unit_box(like: Tensor) -> Tensor:
    """Return a box of width and height 1, ``(D,)``, which fills padded slots."""
    dims = like.shape[-1]
    return F.pad(like.new_ones(2), (2, dims - 4))


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    if boxes.shape[-1] == 5:
        return boxes[..., 2], boxes[..., 3]
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def _flatten(maps: Sequence[Tensor], size: int) -> Tensor:
    """Flatten maps ``(B, A * size, H, W)`` to rows ``(B, N, size)``: by map, cell and anchor.

    Maps that are channels-last, as in training, are copied as they are.
    """
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, size) for m in maps], 1)


def _places(first: tuple[int, int], canvas: Canvas, anchors: int) -> Tensor:
    """Return the row of each anchor in the flattened maps of a head's outputs, int64 ``(N,)``.

    Args:
        first: height and width of the first level.
        canvas: layout of the other levels.
        anchors: number of anchors per cell.
    """
    sizes = [first, (canvas.height, canvas.width)]
    counts = [height * width * anchors for height, width in sizes]
    rows = [
        numbers.view(1, *size, anchors).permute(0, 3, 1, 2)
        for numbers, size in zip(torch.arange(sum(counts)).split(counts), sizes)
    ]
    return _flatten([rows[0], *canvas.cut(rows[1])], 1).flatten()


def _take(maps: Sequence[Tensor], places: Tensor, size: int) -> Tensor:
    """Return rows of flattened maps, float32 ``(B, S, size)``.

    Args:
        maps: maps ``(B, A * size, H, W)``.
        places: indices of the rows, int64 ``(B, S)``.
        size: number of values of a row.
    """
    return take_rows(_flatten(maps, size), places).float()
