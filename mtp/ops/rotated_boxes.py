"""Overlaps and non-maximum suppression of rotated boxes, and their form in plain torch.

A rotated box is (cx, cy, w, h, theta): pixels, and radians with positive = clockwise on screen
(y down). Shapes: N, M numbers of boxes, P of pairs.
"""
import torch
from torch import Tensor

from mtp.ops.dispatch import use_triton

# Pairs of boxes worked on at once: bounds the memory of their temporaries to some 200 MB.
_PAIRS_PER_CHUNK = 1 << 17


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, mode: str = 'iou',
                    aligned: bool = False) -> Tensor:
    """Intersection over union (or over the first box) of rotated boxes.

    Equal to ``mmcv.ops.box_iou_rotated``; boxes without area have overlap 0, and so have boxes with
    NaN. Not differentiable.

    Args:
        boxes1: ``(N, 5)``.
        boxes2: ``(M, 5)``; M = N when aligned.
        mode: ``'iou'``, or ``'iof'``: intersection over the area of ``boxes1``.
        aligned: compare row i with row i only.

    Returns:
        Tensor: ``(N, M)``, or ``(N,)`` when aligned; float32, or float64 for such boxes.

    Raises:
        ValueError: wrong shapes, devices or mode; NaN in boxes on the CPU (on a GPU a check would
            wait for the device).
    """
    _check_boxes(boxes1, boxes2)
    if mode not in ('iou', 'iof'):
        raise ValueError(f"mode is {mode!r}; it must be 'iou' or 'iof'")
    if aligned and len(boxes1) != len(boxes2):
        raise ValueError(f'aligned overlaps need equal numbers of boxes, got {len(boxes1)} and '
                         f'{len(boxes2)}')
    if use_triton(boxes1, boxes2):
        from mtp.ops.triton import rotated_boxes as kernels
        return kernels.box_iou_rotated(boxes1, boxes2, mode == 'iof', aligned)
    return box_iou_rotated_torch(boxes1, boxes2, mode, aligned)


def box_iou_rotated_torch(boxes1: Tensor, boxes2: Tensor, mode: str, aligned: bool) -> Tensor:
    """:func:`box_iou_rotated` in torch."""
    dtype = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
    # float32 would leave a thin box (0.01 x 50 pixels) with three correct digits
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    if aligned:
        parts = zip(boxes1.split(_PAIRS_PER_CHUNK), boxes2.split(_PAIRS_PER_CHUNK))
        return torch.cat([_overlap(*part, mode) for part in parts]).to(dtype)
    overlaps = boxes1.new_zeros(len(boxes1), len(boxes2), dtype=dtype)
    rows = max(1, _PAIRS_PER_CHUNK // max(1, len(boxes2)))
    for part, out in zip(boxes1.split(rows), overlaps.split(rows)):
        i, j = _near_pairs(part, boxes2)
        out[i, j] = _overlap(part[i], boxes2[j], mode).to(dtype)
    return overlaps


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float,
                labels: Tensor | None = None) -> Tensor:
    """Greedy non-maximum suppression of rotated boxes.

    Equal to ``mmcv.ops.nms_rotated``: by falling score, a box is dropped when a kept one overlaps
    it by more than ``iou_threshold`` (and has its label, where labels are given). A score of NaN
    counts as the highest.

    Args:
        boxes: ``(N, 5)``.
        scores: ``(N,)``.
        iou_threshold: 0..1.
        labels: ``(N,)``, or None.

    Returns:
        Tensor: int64 ``(K,)``, indices of the kept boxes by falling score.

    Raises:
        ValueError: wrong shapes or devices; NaN in boxes on the CPU (on a GPU such a box overlaps
            nothing: a check would wait for the device).
    """
    _check_boxes(boxes)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f'{len(boxes)} boxes need as many scores, got shape {tuple(scores.shape)}')
    if labels is not None and labels.shape != scores.shape:
        raise ValueError(f'{len(boxes)} boxes need as many labels, got shape {tuple(labels.shape)}')
    if any(other is not None and other.device != boxes.device for other in (scores, labels)):
        raise ValueError(f'boxes are on {boxes.device}: scores and labels must be there too')
    if use_triton(boxes, scores):
        from mtp.ops.triton import rotated_boxes as kernels
        return kernels.nms_rotated(boxes, scores, iou_threshold, labels)
    return nms_rotated_torch(boxes, scores, iou_threshold, labels)


def nms_rotated_torch(boxes: Tensor, scores: Tensor, iou_threshold: float,
                      labels: Tensor | None) -> Tensor:
    """:func:`nms_rotated` in torch."""
    order = scores.sort(descending=True).indices
    boxes = boxes[order].double()
    labels = None if labels is None else labels[order]

    better, worse = [], []
    rows = max(1, _PAIRS_PER_CHUNK // max(1, len(boxes)))
    for start in range(0, len(boxes), rows):
        i, j = _near_pairs(boxes[start:start + rows], boxes[start:])
        pair = i < j  # each pair once, the better box first
        if labels is not None:
            pair &= labels[start + i] == labels[start + j]
        i, j = i[pair] + start, j[pair] + start
        overlapping = _overlap(boxes[i], boxes[j], 'iou') > iou_threshold
        better.append(i[overlapping])
        worse.append(j[overlapping])
    keep = _greedy(len(boxes), torch.cat(better), torch.cat(worse)) if better else order.bool()
    return order[keep]


def _greedy(num: int, better: Tensor, worse: Tensor) -> Tensor:
    """Boxes (sorted by falling score) that greedy suppression keeps, given overlapping pairs.

    A box is kept when no kept better box overlaps it. Applied to all boxes at once, this rule
    settles the first box in the first sweep, and in each further sweep at least the next box of
    every chain of overlaps: it ends after as many sweeps as the longest chain has boxes.
    """
    keep = torch.ones(num, dtype=torch.bool, device=better.device)
    while True:
        swept = torch.ones_like(keep)
        swept[worse[keep[better]]] = False
        if torch.equal(swept, keep):
            return keep
        keep = swept


def _near_pairs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the pairs whose circumscribed horizontal boxes overlap; few of all pairs do."""
    (c1, r1), (c2, r2) = _extent(boxes1), _extent(boxes2)
    near_x, near_y = ((c1[:, None, axis] - c2[:, axis]).abs() <= r1[:, None, axis] + r2[:, axis]
                      for axis in (0, 1))
    return (near_x & near_y).nonzero(as_tuple=True)


def _extent(boxes: Tensor) -> tuple[Tensor, Tensor]:
    centre, size, angle = boxes.split((2, 2, 1), dim=-1)
    cos, sin = angle.cos().abs(), angle.sin().abs()
    half = torch.cat([(size * torch.cat([cos, sin], -1)).sum(-1, keepdim=True),
                      (size * torch.cat([sin, cos], -1)).sum(-1, keepdim=True)], -1) / 2
    return centre, half


def _overlap(boxes1: Tensor, boxes2: Tensor, mode: str) -> Tensor:
    """Overlap of each pair of ``(P, 5)`` boxes -> ``(P,)``."""
    area1, area2 = boxes1[:, 2] * boxes1[:, 3], boxes2[:, 2] * boxes2[:, 3]
    intersection = _intersection(boxes1, boxes2)
    base = area1 if mode == 'iof' else area1 + area2 - intersection
    tiny = 1e-14  # as in mmcv: a box below has no area
    valid = (area1 >= tiny) & (area2 >= tiny)
    return torch.where(valid, intersection / base.clamp(min=tiny), intersection.new_zeros(()))


def _intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Area of intersection of each pair of ``(P, 5)`` boxes -> ``(P,)``.

    Green's theorem in the frame of the second box, where that is |x| <= a, |y| <= b: the area is
    the integral of F(x, y) dy along the boundary of the first, with F = clamp(x, -a, a) + a for
    |y| <= b and 0 beyond. On an edge F is linear between the points where it meets x = -a, x = a,
    so that the trapezoid rule on these pieces is exact. Nothing is compared or sorted that could
    go wrong for equal boxes, shared edges or touching corners.
    """
    cos, sin = boxes2[:, 4].cos(), boxes2[:, 4].sin()
    dx, dy = (boxes1[:, :2] - boxes2[:, :2]).unbind(-1)
    x0, y0 = dx * cos + dy * sin, dy * cos - dx * sin
    angle = boxes1[:, 4] - boxes2[:, 4]
    cos, sin = angle.cos(), angle.sin()
    w, h = boxes1[:, 2] / 2, boxes1[:, 3] / 2
    # corners around the first box, (P, 4), and the edges from each to the next
    x = torch.stack([x0 + sx * w * cos - sy * h * sin for sx, sy in _CORNERS], -1)
    y = torch.stack([y0 + sx * w * sin + sy * h * cos for sx, sy in _CORNERS], -1)
    dx, dy = x.roll(-1, -1) - x, y.roll(-1, -1) - y
    a, b = boxes2[:, 2:3] / 2, boxes2[:, 3:4] / 2

    def crossing(start: Tensor, step: Tensor, level: Tensor) -> Tensor:
        """Where along the edge (0..1) it meets ``level``; anything for a parallel edge."""
        parallel = step.abs() <= 1e-12
        return ((level - start) / step.masked_fill(parallel, 1.0)).clamp(0, 1)

    # the part of the edge with |y| <= b; parallel edges have dy = 0 and contribute nothing
    y_first, y_last = crossing(y, dy, -b), crossing(y, dy, b)
    first, last = torch.minimum(y_first, y_last), torch.maximum(y_first, y_last)
    x_first, x_last = crossing(x, dx, -a), crossing(x, dx, a)
    middle = torch.stack([torch.minimum(x_first, x_last), torch.maximum(x_first, x_last)])
    low, high = torch.minimum(torch.maximum(middle, first), last)
    value = [(x + t * dx).clamp(-a, a) + a for t in (first, low, high, last)]
    integral = (low - first) * (value[0] + value[1]) + (high - low) * (value[1] + value[2]) \
        + (last - high) * (value[2] + value[3])
    return ((integral * dy).sum(-1) / 2).clamp(min=0)


_CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def _check_boxes(*boxes: Tensor) -> None:
    for tensor in boxes:
        if tensor.dim() != 2 or tensor.shape[1] != 5:
            raise ValueError('rotated boxes must have shape (N, 5): cx, cy, w, h, theta; '
                             f'got {tuple(tensor.shape)}')
        if tensor.device.type == 'cpu' and not torch.compiler.is_compiling():
            bad = tensor.isnan().any(1)
            if bad.any():
                raise ValueError(f'{int(bad.sum())} of {len(tensor)} rotated boxes have NaN, the '
                                 f'first in row {int(bad.nonzero()[0])}: did training diverge?')
    if len({tensor.device for tensor in boxes}) > 1:
        raise ValueError('boxes must be on one device; got '
                         + ' and '.join(str(tensor.device) for tensor in boxes))
