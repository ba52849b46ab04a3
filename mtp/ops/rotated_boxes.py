"""Overlaps and non-maximum suppression of rotated boxes.

A rotated box is (cx, cy, w, h, theta): pixels, and radians with positive = clockwise on screen
(y down). Shapes: B images, N and M boxes, P pairs. Nothing here is differentiable.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mtp.ops.dispatch import twin_of, use_triton
from mtp.ops.value_checks import checks_values

# Pairs whose overlaps are computed at once, and pairs tested at once for being near each other:
# each bounds the memory of its temporaries to some 200 MB.
_PAIRS_PER_CHUNK = 1 << 17
_LOOKS_PER_CHUNK = 1 << 22


def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, mode: str = 'iou', aligned: bool = False
) -> Tensor:
    """Compute the intersection over union (or over the first box) of rotated boxes.

    Equal to ``mmcv.ops.box_iou_rotated``. Boxes without area have overlap 0, and so have boxes with
    NaN or infinite values. These are an error on a CPU outside of a training step; on CUDA,
    checking them would make the host wait for the device.

    Args:
        boxes1: boxes ``(N, 5)`` or ``(B, N, 5)``, of any floating-point dtype.
        boxes2: boxes ``(M, 5)`` or ``(B, M, 5)``; M = N when aligned.
        mode: ``'iou'``, or ``'iof'`` for intersection over the area of ``boxes1``.
        aligned: whether to compare row i with row i only; not for boxes of B images.

    Returns:
        Tensor: overlaps ``(N, M)``; or ``(B, N, M)``, between boxes of the same image; or ``(N,)``
        when aligned. float32, or float64 for float64 boxes.

    Raises:
        ValueError: shapes, dtypes, devices or mode are wrong, or, on CPU, boxes are NaN or
            infinite outside of :func:`mtp.ops.value_checks.values_unchecked`.
    """
    _check_boxes(boxes1, boxes2, dims=(2, 3))
    if boxes1.shape[:-2] != boxes2.shape[:-2]:
        raise ValueError(
            'both must be boxes of as many images; got '
            f'{tuple(boxes1.shape)} and {tuple(boxes2.shape)}'
        )
    if mode not in ('iou', 'iof'):
        raise ValueError(f"mode is {mode!r}; it must be 'iou' or 'iof'")
    if aligned and (boxes1.dim() != 2 or boxes1.shape != boxes2.shape):
        raise ValueError(
            'aligned overlaps need equal numbers of boxes, twice (N, 5); got '
            f'{tuple(boxes1.shape)} and {tuple(boxes2.shape)}'
        )
    form: Callable[..., Tensor]
    if use_triton(boxes1, boxes2):
        from mtp.ops.triton.rotated_boxes import box_iou_rotated as form
    else:
        form = box_iou_rotated_torch
    return form(boxes1.detach(), boxes2.detach(), mode, aligned)


def nms_rotated(
    boxes: Tensor, scores: Tensor, iou_threshold: float, labels: Tensor | None = None
) -> Tensor:
    """Apply greedy non-maximum suppression to rotated boxes.

    Equal to ``mmcv.ops.nms_rotated``: by falling score, a box is dropped if a kept one overlaps it
    by more than ``iou_threshold`` (and has the same label, if labels are given). Boxes of equal
    scores keep their order, and NaN scores come before all others. Boxes with NaN overlap nothing,
    as in :func:`box_iou_rotated`.

    Args:
        boxes: boxes ``(N, 5)``, of any floating-point dtype.
        scores: scores ``(N,)``.
        iou_threshold: IoU above which a box is dropped, 0..1.
        labels: class of each box ``(N,)``, or None for a single class.

    Returns:
        Tensor: indices of the K kept boxes by falling score, int64 ``(K,)``. The host waits once
        for the device, to learn K.

    Raises:
        ValueError: shapes, dtypes or devices are wrong, or, on CPU, boxes are NaN or infinite
            outside of :func:`mtp.ops.value_checks.values_unchecked`.
    """
    _check_boxes(boxes)
    for name, tensor in (('scores', scores), ('labels', labels)):
        if tensor is None:
            continue
        if tensor.shape != boxes.shape[:1]:
            raise ValueError(
                f'{len(boxes)} boxes need as many {name}, got shape {tuple(tensor.shape)}'
            )
        if tensor.device != boxes.device:
            raise ValueError(
                f'boxes are on {boxes.device}, {name} on {tensor.device}: move them to one device'
            )
    order = scores.detach().sort(descending=True).indices  # mmcv's order of equal scores
    form: Callable[..., Tensor]
    if use_triton(boxes):
        from mtp.ops.triton.rotated_nms import kept_rotated as form
    else:
        form = kept_rotated_torch
    labels = None if labels is None else labels.detach()[order]
    return order[form(boxes.detach()[order], iou_threshold, labels)]


@twin_of('box_iou_rotated')
@torch.library.custom_op('mtp::box_iou_rotated_torch', mutates_args=())
def box_iou_rotated_torch(boxes1: Tensor, boxes2: Tensor, mode: str, aligned: bool) -> Tensor:
    """Compute :func:`box_iou_rotated` in torch.

    It is an operator, because compiled code cannot depend on which boxes are near each other.
    """
    if boxes1.dim() == 2 and not aligned:
        return box_iou_rotated_torch(boxes1[None], boxes2[None], mode, aligned)[0]
    dtype = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
    # in float32, a thin box (0.01 x 50 pixels) would have three correct digits
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    if aligned:
        return _overlap(boxes1, boxes2, mode).to(dtype)
    images, num1, num2 = len(boxes1), boxes1.shape[1], boxes2.shape[1]
    overlaps = boxes1.new_zeros(images, num1, num2, dtype=dtype)
    rows = max(1, _LOOKS_PER_CHUNK // max(1, images * num2))
    flat2 = boxes2.flatten(0, 1)
    for part, out in zip(boxes1.split(rows, 1), overlaps.split(rows, 1)):
        image, i, j = _near_pairs(part, boxes2)
        out[image, i, j] = _overlap(
            part.flatten(0, 1), flat2, mode, image * part.shape[1] + i, image * num2 + j
        ).to(dtype)
    return overlaps


@box_iou_rotated_torch.register_fake
def _(boxes1: Tensor, boxes2: Tensor, mode: str, aligned: bool) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
    return boxes1.new_empty(
        boxes1.shape[:-1] + (() if aligned else boxes2.shape[-2:-1]), dtype=dtype
    )


@twin_of('kept_rotated')
def kept_rotated_torch(boxes: Tensor, iou_threshold: float, labels: Tensor | None) -> Tensor:
    """Return which boxes :func:`nms_rotated` keeps, in torch.

    Args:
        boxes: boxes ``(N, 5)`` by falling score.
        iou_threshold: IoU above which a box is dropped, 0..1.
        labels: class of each box ``(N,)``, or None.

    Returns:
        Tensor: flags of the kept boxes ``(N,)``, bool.
    """
    boxes = boxes.double()
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)

    def overlapping(first: Tensor, second: Tensor, later: bool) -> tuple[Tensor, Tensor]:
        """Return the pairs (positions in the lists) whose first box would suppress the second."""
        i, j = _near_pairs(boxes[first], boxes[second])
        asked = i < j if later else torch.ones_like(i, dtype=torch.bool)
        if labels is not None:
            asked &= labels[first[i]] == labels[second[j]]
        i, j = i[asked], j[asked]
        over = _overlap(boxes, boxes, 'iou', first[i], second[j]) > iou_threshold
        return i[over], j[over]

    # The best boxes are settled among themselves and then suppress the others, and so on. The fewer
    # at a time, the fewer overlaps of already suppressed boxes are computed.
    rows = max(1, min(256, _LOOKS_PER_CHUNK // max(1, len(boxes))))
    for start in range(0, len(boxes), rows):
        best = keep[start : start + rows].nonzero().squeeze(1) + start
        stays = _greedy(len(best), *overlapping(best, best, later=True))
        keep[best] = stays
        rest = keep[start + rows :].nonzero().squeeze(1) + start + rows
        keep[rest[overlapping(best[stays], rest, later=False)[1]]] = False
    return keep


def _greedy(num: int, better: Tensor, worse: Tensor) -> Tensor:
    """Return which boxes, sorted by falling score, greedy suppression keeps, given the overlaps.

    A box is kept if no kept better box overlaps it. Applied to all boxes at once, this rule settles
    the first box in the first sweep, and in each further sweep at least the next box of every chain
    of overlaps. It ends after as many sweeps as the longest chain has boxes.

    Args:
        num: number of boxes.
        better: index of the better box of each overlapping pair ``(P,)``.
        worse: index of the worse box of each overlapping pair ``(P,)``.
    """
    keep = torch.ones(num, dtype=torch.bool, device=better.device)
    while True:
        swept = torch.ones_like(keep)
        swept[worse[keep[better]]] = False
        if torch.equal(swept, keep):
            return keep
        keep = swept


def _near_pairs(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, ...]:
    """Return the indices of the pairs whose circumscribed horizontal boxes overlap.

    These are few of all pairs. The indices are (i, j), or (image, i, j) for boxes ``(B, N, 5)`` and
    ``(B, M, 5)``.
    """
    (c1, r1), (c2, r2) = _extent(boxes1.unsqueeze(-2)), _extent(boxes2.unsqueeze(-3))
    near_x, near_y = (
        (c1[..., axis] - c2[..., axis]).abs() <= r1[..., axis] + r2[..., axis] for axis in (0, 1)
    )
    return (near_x & near_y).nonzero(as_tuple=True)


def _extent(boxes: Tensor) -> tuple[Tensor, Tensor]:
    centre, size, angle = boxes.split((2, 2, 1), dim=-1)
    cos, sin = angle.cos().abs(), angle.sin().abs()
    half = (
        torch.cat(
            [
                (size * torch.cat([cos, sin], -1)).sum(-1, keepdim=True),
                (size * torch.cat([sin, cos], -1)).sum(-1, keepdim=True),
            ],
            -1,
        )
        / 2
    )
    return centre, half


def _overlap(
    boxes1: Tensor, boxes2: Tensor, mode: str, i: Tensor | None = None, j: Tensor | None = None
) -> Tensor:
    """Compute the overlap ``(P,)`` of each pair of boxes: rows i and j, or all rows of both."""
    num = len(boxes1 if i is None else i)
    parts = [boxes1.new_zeros(0)]
    for start in range(0, num, _PAIRS_PER_CHUNK):
        chunk = slice(start, start + _PAIRS_PER_CHUNK)
        parts.append(
            _overlap_of_rows(
                boxes1[chunk if i is None else i[chunk]],
                boxes2[chunk if j is None else j[chunk]],
                mode,
            )
        )
    return torch.cat(parts)


def _overlap_of_rows(boxes1: Tensor, boxes2: Tensor, mode: str) -> Tensor:
    area1, area2 = boxes1[:, 2] * boxes1[:, 3], boxes2[:, 2] * boxes2[:, 3]
    intersection = _intersection(boxes1, boxes2)
    base = area1 if mode == 'iof' else area1 + area2 - intersection
    tiny = 1e-14  # as in mmcv: a smaller area counts as none
    overlap = intersection / base.clamp(min=tiny)
    # False for NaN
    valid = (area1 >= tiny) & (area2 >= tiny) & (overlap > 0)
    return torch.where(valid, overlap, overlap.new_zeros(()))


def _intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute the area of intersection ``(P,)`` of each pair of ``(P, 5)`` boxes.

    Uses Green's theorem in the frame of the second box, which is |x| <= a, |y| <= b there. The area
    is the integral of F(x, y) dy along the boundary of the first box, with
    F = clamp(x, -a, a) + a for |y| <= b and 0 beyond. On an edge, F is linear between the points
    where the edge meets x = -a and x = a, so the trapezoid rule on these pieces is exact. There is
    no comparison or sorting that could fail for equal boxes, shared edges or touching corners.
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
        """Return where along the edge (0..1) it meets ``level``; any value for a parallel edge."""
        parallel = step.abs() <= 1e-12
        return ((level - start) / step.masked_fill(parallel, 1.0)).clamp(0, 1)

    # the part of the edge with |y| <= b; parallel edges have dy = 0 and contribute nothing
    y_first, y_last = crossing(y, dy, -b), crossing(y, dy, b)
    first, last = torch.minimum(y_first, y_last), torch.maximum(y_first, y_last)
    x_first, x_last = crossing(x, dx, -a), crossing(x, dx, a)
    middle = torch.stack([torch.minimum(x_first, x_last), torch.maximum(x_first, x_last)])
    low, high = torch.minimum(torch.maximum(middle, first), last)
    value = [(x + t * dx).clamp(-a, a) + a for t in (first, low, high, last)]
    integral = (
        (low - first) * (value[0] + value[1])
        + (high - low) * (value[1] + value[2])
        + (last - high) * (value[2] + value[3])
    )
    return ((integral * dy).sum(-1) / 2).clamp(min=0)


_CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def _check_boxes(*boxes: Tensor, dims: tuple[int, ...] = (2,)) -> None:
    for tensor in boxes:
        if tensor.dim() not in dims or tensor.shape[-1] != 5 or not tensor.is_floating_point():
            raise ValueError(
                'rotated boxes must be floating-point (N, 5): cx, cy, w, h, theta; '
                f'got {tensor.dtype} {tuple(tensor.shape)}'
            )
    if boxes[0].device != boxes[-1].device:
        raise ValueError(
            f'boxes are on {boxes[0].device} and {boxes[-1].device}: move them to one device'
        )
    # Reading values on CUDA would make the host wait for the device.
    on_cpu = boxes[0].device.type == 'cpu'
    if on_cpu and not torch.compiler.is_compiling() and checks_values():
        for tensor in boxes:
            tensor = tensor.flatten(0, -2)
            wrong = (~tensor.isfinite().all(1)).nonzero()
            if len(wrong):
                row = int(wrong[0])
                raise ValueError(
                    f'{len(wrong)} of {len(tensor)} boxes have NaN or infinite '
                    f'numbers, the first of them row {row}: '
                    f'{tensor[row].tolist()}; did training diverge?'
                )
