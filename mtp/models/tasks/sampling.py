"""Assignment of boxes to objects and random sampling of them, for all images at once."""

from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.task_modules import MaxIoUAssigner
from mmdet.models.task_modules.samplers import RandomSampler
from mmrotate.models.task_modules import RBbox2HBboxOverlaps2D, RBboxOverlaps2D
from mmrotate.structures.bbox import rbox2hbox
from torch import Tensor

from mtp.models.tasks.ground_truth import GroundTruth
from mtp.ops import box_iou_rotated
from mtp.registry import TASK_UTILS

# Number of pairs of an object and a box that are compared at once. It bounds the memory of the
# overlaps to about 700 MB where they are not compiled into the reductions over them.
PAIRS_AT_ONCE = 1 << 25


@TASK_UTILS.register_module()
class BatchedMaxIoUAssigner(MaxIoUAssigner):
    """mmdet's ``MaxIoUAssigner`` for padded batches: the same result, without loops over objects.

    Args:
        kwargs: options as in mmdet; the IoU calculator is mmdet's ``BboxOverlaps2D`` or mmrotate's
            ``RBboxOverlaps2D`` or ``RBbox2HBboxOverlaps2D``.

    Raises:
        ValueError: an option is not supported for batches.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if (
            isinstance(self.neg_iou_thr, tuple | list)
            or not self.gt_max_assign_all
            or self.ignore_iof_thr > 0
            or self.perm_repeat_gt_cfg is not None
        ):
            raise ValueError(
                f'{type(self).__name__} takes one neg_iou_thr, gt_max_assign_all=True '
                'and neither ignore_iof_thr nor perm_repeat_gt_cfg'
            )

    def assign_batch(self, boxes: Tensor, valid: Tensor, truth: GroundTruth) -> Tensor:
        """Assign boxes to objects.

        Args:
            boxes: anchors or proposals, ``(B, N, D)``, pixels.
            valid: whether each box takes part, bool ``(B, N)``.
            truth: ground truth of the images.

        Returns:
            Tensor: int64 ``(B, N)``: index of the object + 1, 0 for background, -1 for neither.
        """
        images = len(boxes)
        if not torch.compiler.is_compiling():
            images = max(1, PAIRS_AT_ONCE // (truth.valid.shape[1] * boxes.shape[1]))
        parts = zip(*(t.split(images) for t in (boxes, valid, truth.boxes, truth.valid)))
        return torch.cat([self._assign(*part) for part in parts])

    def _assign(self, boxes: Tensor, valid: Tensor, objects: Tensor, present: Tensor) -> Tensor:
        overlaps = self._overlaps(objects, boxes).masked_fill(~present[..., None], 0)
        best, which = overlaps.max(1)
        assigned = torch.where(best < self.neg_iou_thr, 0, -1)
        assigned = torch.where(best >= self.pos_iou_thr, which + 1, assigned)
        if self.match_low_quality:
            top = overlaps.masked_fill(~valid[:, None], -1).amax(2, keepdim=True)
            chosen = (overlaps == top) & (top >= self.min_pos_iou) & present[..., None]
            # mmdet loops over the objects in order: the last one gets a box that several claim
            number = torch.arange(1, chosen.shape[1] + 1, device=boxes.device)
            last = (chosen * number[:, None]).amax(1)
            assigned = torch.where(last > 0, last, assigned)
        return assigned.masked_fill(~valid, -1)

    def _overlaps(self, objects: Tensor, boxes: Tensor) -> Tensor:
        """Return the IoU of objects and boxes, ``(B, G, N)``."""
        if isinstance(self.iou_calculator, RBboxOverlaps2D):
            # as in mmrotate, for boxes without extent
            objects, boxes = (
                torch.cat([b[..., :2], b[..., 2:4].clamp(min=1e-3), b[..., 4:]], -1)
                for b in (objects, boxes)
            )
            return box_iou_rotated(objects, boxes)
        if isinstance(self.iou_calculator, RBbox2HBboxOverlaps2D):
            objects = rbox2hbox(objects)
        return _horizontal_iou(objects, boxes)


def _horizontal_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute mmdet's ``bbox_overlaps`` without its copy of a constant from the host."""
    x1, y1, x2, y2 = boxes1[..., None].unbind(-2)
    u1, v1, u2, v2 = boxes2[..., None, :, :].unbind(-1)
    width = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    overlap = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)).sub_(overlap)
    return overlap.div_(union.clamp_(min=1e-6))


@dataclass
class Samples:
    """Sampled boxes, S slots per image, positives first; padded slots are not ``valid``.

    Attributes:
        index: index of the box, int64 ``(B, S)``.
        positive: whether the box is a positive sample, bool ``(B, S)``; only in the first ``most``.
        valid: whether the slot holds a sample, bool ``(B, S)``.
        object: index of the box's object, int64 ``(B, S)``; only meaningful where ``positive``.
        most: largest possible number of positives per image.
    """

    index: Tensor
    positive: Tensor
    valid: Tensor
    object: Tensor
    most: int


@TASK_UTILS.register_module()
class SeededRandomSampler(RandomSampler):
    """mmdet's ``RandomSampler`` for padded batches, its draws a function of the image's seed.

    An image gets the same anchors and proposals on any process and after a resume. The boxes with
    the largest hashed numbers are taken, so that each choice is equally likely.

    Args:
        kwargs: options as in mmdet.

    Raises:
        ValueError: ``neg_pos_ub`` is set, which is not supported for batches.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.neg_pos_ub >= 0:
            raise ValueError(f'{type(self).__name__} does not support neg_pos_ub: leave it out')

    def sample_batch(self, assigned: Tensor, seeds: Tensor) -> Samples:
        """Sample ``num`` boxes per image, of which at most ``pos_fraction`` are positive.

        Args:
            assigned: result of :meth:`BatchedMaxIoUAssigner.assign_batch`, int64 ``(B, N)``.
            seeds: seed of each image, int64 ``(B,)``.
        """
        keys = hashed(seeds, assigned.shape[1])
        most = min(int(self.num * self.pos_fraction), assigned.shape[1])
        # of both kinds at once: each choice takes several launches
        of_kinds = torch.stack([assigned > 0, assigned == 0])
        drawn, indices = torch.where(of_kinds, keys, -1).topk(min(self.num, assigned.shape[1]))
        (positive, negative), (index, more) = drawn >= 0, indices
        positive, index = positive[:, :most], index[:, :most]
        room = self.num - positive.sum(1, keepdim=True)
        negative = negative & (torch.arange(more.shape[1], device=more.device) < room)

        slots, valid = _filled_first(positive, negative, self.num)
        index = torch.cat([index, more], 1).gather(1, slots)
        assigned = assigned.gather(1, index)
        positive = (assigned > 0) & valid
        return Samples(
            index=index,
            positive=positive,
            valid=valid,
            object=(assigned - 1).clamp(min=0),
            most=min(most, index.shape[1]),
        )


def _filled_first(positive: Tensor, negative: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Order slots so that filled ones come first, as a stable sort would.

    No sort is needed, since the slots of both kinds are filled from the first one on.

    Args:
        positive: whether slots of positives are filled, bool ``(B, P)``.
        negative: whether slots of negatives, which come after them, are filled, bool ``(B, N)``.
        most: largest number of slots to return.

    Returns:
        tuple[Tensor, Tensor]: the first ``most`` slots and whether each is filled, ``(B, S)``.
    """
    width = positive.shape[1]
    positives = positive.sum(1, keepdim=True)
    negatives = negative.sum(1, keepdim=True)
    place = torch.arange(min(most, width + negative.shape[1]), device=positive.device)
    filled = positives + negatives
    slots = torch.where(place < filled, place + width - positives, place)
    slots = torch.where((place >= filled) & (place < width + negatives), place - negatives, slots)
    return torch.where(place < positives, place, slots), place < filled


def hashed(seeds: Tensor, count: int) -> Tensor:
    """Return random numbers that are a function of seed and place alone.

    They are the outputs of splitmix64 after ``place`` steps from ``seed``, equal on CPU and GPU,
    compiled or not. Source: Steele et al., *Fast Splittable Pseudorandom Number Generators*,
    OOPSLA 2014.

    Args:
        seeds: seed of each image, int64 ``(B,)``.
        count: number of draws per seed.

    Returns:
        Tensor: int64 ``(B, count)``, 0 to 2^62 - 1.
    """
    place = torch.arange(1, count + 1, device=seeds.device)
    # This is seed + place * INCREMENT, modulo 2^64. In that form, inductor would take the product
    # for index arithmetic, and Triton refuses a constant that 32-bit indices cannot hold.
    x = (seeds[:, None] * _INVERSE + place) * _INCREMENT
    x = (x ^ (x >> 30) & _low_bits(34)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27) & _low_bits(37)) * _signed(0x94D049BB133111EB)
    x = x ^ (x >> 31) & _low_bits(33)
    return (x >> 2) & _low_bits(62)


def _signed(value: int) -> int:
    """Return the int64 with the bits of an unsigned number of at least 2^63."""
    return value - (1 << 64)


def _low_bits(number: int) -> int:
    """Return the mask that makes a shift of int64 an unsigned one, which torch does not have."""
    return (1 << number) - 1


_INCREMENT = _signed(0x9E3779B97F4A7C15)
_INVERSE = _signed(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
