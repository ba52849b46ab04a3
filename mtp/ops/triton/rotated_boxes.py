"""Overlaps and suppression of rotated boxes: kernels and operators.

Arithmetic is in float64, as in the torch twin: in float32 a box of 0.01 x 50 pixels keeps three
digits. Sines and cosines are taken once a box, so that a pair costs some 250 operations and four
divisions; tiles without a pair of touching circumscribed rectangles cost a comparison.

Suppression sorts by score and works through chunks of boxes: the overlaps within a chunk as bits,
64 to a word, then one program that settles 64 boxes at a time, then all later boxes against the
chunk's survivors. Memory is ``CHUNK**2 / 8`` bytes (2 MB) whatever the number of boxes, and the
host waits for nothing before the survivors are gathered. For 10,000 boxes: 3 x 3 launches, 157
blocks settled one after another at an estimated 3 us each, 50 M pairs of which few touch.
"""
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.triton.common import CompileCase

CHUNK = 4096
BITS = tl.constexpr(64)  # of a word
TINY = tl.constexpr(1e-14)  # as in mmcv: a box of less area has none


@triton.jit
def _load(table, index, exists):
    """Of each box: centre, half sides, cosine and sine, half sides of the rectangle around it."""
    row = table + index.to(tl.int64) * 8
    return (tl.load(row, exists, other=float('nan')), tl.load(row + 1, exists, other=0.),
            tl.load(row + 2, exists, other=0.), tl.load(row + 3, exists, other=0.),
            tl.load(row + 4, exists, other=1.), tl.load(row + 5, exists, other=0.),
            tl.load(row + 6, exists, other=0.), tl.load(row + 7, exists, other=0.))


@triton.jit
def _near(cx1, cy1, ex1, ey1, cx2, cy2, ex2, ey2):
    """Whether the rectangles around two boxes touch; false where anything is NaN."""
    return (tl.abs(cx1 - cx2) <= ex1 + ex2) & (tl.abs(cy1 - cy2) <= ey1 + ey2)


@triton.jit
def _clamp(value, low, high):
    return tl.minimum(tl.maximum(value, low), high)


@triton.jit
def _inverse(step):
    """1 / step, and 1 for the step of an edge parallel to what it should cross."""
    return 1.0 / tl.where(tl.abs(step) <= 1e-12, 1.0, step)


@triton.jit
def _edge(x, y, dx, dy, inverse_x, inverse_y, a, b):
    """An edge's share of twice the area of intersection, see the torch twin."""
    y_first = _clamp((-b - y) * inverse_y, 0.0, 1.0)
    y_last = _clamp((b - y) * inverse_y, 0.0, 1.0)
    x_first = _clamp((-a - x) * inverse_x, 0.0, 1.0)
    x_last = _clamp((a - x) * inverse_x, 0.0, 1.0)
    first, last = tl.minimum(y_first, y_last), tl.maximum(y_first, y_last)
    low = tl.minimum(tl.maximum(tl.minimum(x_first, x_last), first), last)
    high = tl.minimum(tl.maximum(tl.maximum(x_first, x_last), first), last)
    value_first = _clamp(x + first * dx, -a, a) + a
    value_low = _clamp(x + low * dx, -a, a) + a
    value_high = _clamp(x + high * dx, -a, a) + a
    value_last = _clamp(x + last * dx, -a, a) + a
    return dy * ((low - first) * (value_first + value_low)
                 + (high - low) * (value_low + value_high)
                 + (last - high) * (value_high + value_last))


@triton.jit
def _overlap(cx1, cy1, w1, h1, cos1, sin1, cx2, cy2, w2, h2, cos2, sin2, OVER_FIRST: tl.constexpr):
    """Intersection over union, or over the first box; half sides ``w``, ``h``."""
    x0 = (cx1 - cx2) * cos2 + (cy1 - cy2) * sin2
    y0 = (cy1 - cy2) * cos2 - (cx1 - cx2) * sin2
    cos, sin = cos1 * cos2 + sin1 * sin2, sin1 * cos2 - cos1 * sin2
    # half edges of the first box, in the frame of the second
    wx, wy, hx, hy = w1 * cos, w1 * sin, -h1 * sin, h1 * cos
    wx_inverse, wy_inverse = _inverse(2 * wx), _inverse(2 * wy)
    hx_inverse, hy_inverse = _inverse(2 * hx), _inverse(2 * hy)
    double = _edge(x0 - wx - hx, y0 - wy - hy, 2 * wx, 2 * wy, wx_inverse, wy_inverse, w2, h2)
    double += _edge(x0 + wx - hx, y0 + wy - hy, 2 * hx, 2 * hy, hx_inverse, hy_inverse, w2, h2)
    double += _edge(x0 + wx + hx, y0 + wy + hy, -2 * wx, -2 * wy, -wx_inverse, -wy_inverse, w2, h2)
    double += _edge(x0 - wx + hx, y0 - wy + hy, -2 * hx, -2 * hy, -hx_inverse, -hy_inverse, w2, h2)
    intersection = tl.maximum(double / 2, 0.0)
    area1, area2 = 4 * w1 * h1, 4 * w2 * h2
    base = area1 if OVER_FIRST else area1 + area2 - intersection
    return tl.where((area1 >= TINY) & (area2 >= TINY), intersection / tl.maximum(base, TINY), 0.0)


@triton.jit
def _iou_kernel(table1, table2, out, n, m, OVER_FIRST: tl.constexpr, ALIGNED: tl.constexpr,
                BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    if ALIGNED:
        column = row
        places, exists = row.to(tl.int64), row < n
    else:
        column = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        places, exists = row.to(tl.int64) * m + column, (row < n) & (column < m)
    cx1, cy1, w1, h1, cos1, sin1, ex1, ey1 = _load(table1, row, row < n)
    cx2, cy2, w2, h2, cos2, sin2, ex2, ey2 = _load(table2, column, column < m)
    near = _near(cx1, cy1, ex1, ey1, cx2, cy2, ex2, ey2)
    if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
        overlap = _overlap(cx1, cy1, w1, h1, cos1, sin1, cx2, cy2, w2, h2, cos2, sin2, OVER_FIRST)
        tl.store(out + places, tl.where(near, overlap, 0.0).to(out.dtype.element_ty), exists)
    else:
        tl.store(out + places, tl.zeros((BLOCK_N, BLOCK_M), out.dtype.element_ty), exists)


@triton.jit
def _suppressing(table, labels, row, column, exists, threshold, LABELS: tl.constexpr):
    """Whether each row's box, where it exists, suppresses each column's; int32."""
    cx1, cy1, w1, h1, cos1, sin1, ex1, ey1 = _load(table, row, exists)
    cx2, cy2, w2, h2, cos2, sin2, ex2, ey2 = _load(table, column, exists)
    near = exists & _near(cx1, cy1, ex1, ey1, cx2, cy2, ex2, ey2)
    if LABELS:
        near &= tl.load(labels + row, exists, other=0) == tl.load(labels + column, exists, other=0)
    result = near.to(tl.int32)
    if tl.max(tl.max(result, 1), 0) > 0:
        overlap = _overlap(cx1, cy1, w1, h1, cos1, sin1, cx2, cy2, w2, h2, cos2, sin2, False)
        result = (near & (overlap > threshold)).to(tl.int32)
    return result


@triton.jit
def _mask_kernel(table, labels, dead, mask, start, stop, words, threshold, LABELS: tl.constexpr,
                 BLOCK: tl.constexpr):
    """Bits ``mask[i, j]`` of a chunk: box ``start + i`` suppresses box ``start + j``, j > i."""
    first, word = tl.program_id(0) * BLOCK, tl.program_id(1)
    row = start + first + tl.arange(0, BLOCK)[:, None]
    column = start + word * BITS + tl.arange(0, BITS)[None, :]
    alive = tl.load(dead + row, row < stop, other=1) == 0
    exists = alive & (column < stop) & (column > row)
    hit = _suppressing(table, labels, row, column, exists, threshold, LABELS)
    bits = tl.sum(hit.to(tl.int64) << tl.arange(0, BITS)[None, :].to(tl.int64), 1)
    row = first + tl.arange(0, BLOCK)
    tl.store(mask + row * words + word, bits, row < stop - start)


@triton.jit
def _or(left, right):
    return left | right


@triton.jit
def _settle_kernel(mask, dead, start, stop, words, WORDS: tl.constexpr):
    """Greedy suppression within a chunk, by one program: writes ``dead``."""
    bit, number = tl.arange(0, BITS), tl.arange(0, WORDS)
    gone = tl.zeros((WORDS,), tl.int64)  # what the blocks before have suppressed
    for block in range(words):
        row = block * BITS + bit
        exists = row < stop - start
        before = tl.sum(tl.where(number == block, gone, 0), 0)
        out = (tl.load(dead + start + row, exists, other=1) != 0) | (((before >> bit) & 1) != 0)
        diagonal = tl.load(mask + row * words + block, exists, other=0)
        hits = ((diagonal[:, None] >> bit[None, :]) & 1).to(tl.int32)
        # A box stays where no staying better one suppresses it. Applied to all boxes at once, this
        # settles at least the next box of every chain of overlaps.
        stays = (~out).to(tl.int32)
        changed = 1
        while changed > 0:
            swept = tl.where(out, 0, 1 - tl.max(hits * stays[:, None], 0))
            changed = tl.sum(tl.abs(swept - stays), 0)
            stays = swept
        tl.store(dead + start + row, 1 - stays, exists)
        kept = (exists & (stays > 0))[:, None] & (number < words)[None, :]
        later = tl.load(mask + row[:, None] * words + number[None, :], kept, other=0)
        gone |= tl.reduce(later, 0, _or)


@triton.jit
def _suppress_kernel(table, labels, dead, start, stop, n, threshold, LABELS: tl.constexpr,
                     BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Boxes after a chunk against ``ROWS`` of its boxes: writes ``dead``."""
    column = stop + tl.program_id(0).to(tl.int64) * BITS + tl.arange(0, BITS)[None, :]
    hit = tl.zeros((BITS,), tl.int32)
    for first in range(0, ROWS, BLOCK):
        row = start + tl.program_id(1) * ROWS + first + tl.arange(0, BLOCK)[:, None]
        alive = tl.load(dead + row, row < stop, other=1) == 0
        hits = _suppressing(table, labels, row, column, alive & (column < n), threshold, LABELS)
        hit = tl.maximum(hit, tl.max(hits, 0))
    place = stop + tl.program_id(0).to(tl.int64) * BITS + tl.arange(0, BITS)
    # several programs may store the same 1
    tl.store(dead + place, tl.full((BITS,), 1, tl.int32), (place < n) & (hit > 0))


@torch.library.custom_op('mtp::box_iou_rotated', mutates_args=(), device_types=('cuda', 'cpu'))
def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, over_first: bool, aligned: bool) -> Tensor:
    """Overlaps of rotated boxes; not differentiable.

    Args:
        boxes1, boxes2: ``(N, 5)`` and ``(M, 5)``, M = N when aligned.
        over_first: over the area of the first box instead of the union.
        aligned: row i with row i only.

    Returns:
        Tensor: float32 ``(N, M)``, or ``(N,)`` when aligned.
    """
    out = _box_iou_rotated_fake(boxes1, boxes2, over_first, aligned)
    if out.numel():
        n, m = len(boxes1), len(boxes2)
        block_n, block_m = _iou_block(aligned)
        grid = (triton.cdiv(n, block_n), 1 if aligned else triton.cdiv(m, block_m))
        with torch.cuda.device_of(boxes1):  # Triton launches on the current device
            _iou_kernel[grid](_table(boxes1), _table(boxes2), out, n, m, over_first, aligned,
                              block_n, block_m, num_warps=4)
    return out


@box_iou_rotated.register_fake
def _box_iou_rotated_fake(boxes1, boxes2, over_first, aligned):
    shape = (len(boxes1),) if aligned else (len(boxes1), len(boxes2))
    return boxes1.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op('mtp::nms_rotated', mutates_args=(), device_types=('cuda', 'cpu'))
def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float, labels: Tensor | None
                ) -> Tensor:
    """Greedy suppression; the number of survivors is known to the device alone until the end.

    Args:
        boxes: ``(N, 5)``; one with NaN overlaps nothing.
        scores: ``(N,)``; NaN counts as the highest.
        iou_threshold: boxes that overlap by more are suppressed.
        labels: ``(N,)``, boxes of different labels do not meet; None: all do.

    Returns:
        Tensor: int64 ``(K,)``, by falling score.
    """
    order = scores.sort(descending=True).indices
    dead = suppressed(boxes[order], iou_threshold, None if labels is None else labels[order])
    return order[dead == 0]


@nms_rotated.register_fake
def _nms_rotated_fake(boxes, scores, iou_threshold, labels):
    return scores.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def suppressed(boxes: Tensor, iou_threshold: float, labels: Tensor | None, chunk: int = CHUNK
               ) -> Tensor:
    """Which of ``(N, 5)`` boxes, by falling score, go: int32 ``(N,)``, without a wait.

    ``chunk``, a multiple of 64, is how many boxes are settled at a time.
    """
    n = len(boxes)
    table = _table(boxes)
    dead = torch.zeros(n, dtype=torch.int32, device=boxes.device)
    words = triton.cdiv(min(n, chunk), 64)
    mask = torch.empty(words * 64, words, dtype=torch.int64, device=boxes.device)
    has_labels = labels is not None
    labels = labels.to(torch.int64).contiguous() if has_labels else dead
    with torch.cuda.device_of(boxes):
        for start in range(0, n, chunk):
            stop = min(start + chunk, n)
            words = triton.cdiv(stop - start, 64)
            _mask_kernel[(triton.cdiv(stop - start, _BLOCK), words)](
                table, labels, dead, mask, start, stop, words, iou_threshold, has_labels, _BLOCK,
                num_warps=4)
            _settle_kernel[(1,)](mask, dead, start, stop, words, triton.next_power_of_2(words),
                                 num_warps=8)
            if stop < n:
                _suppress_kernel[(triton.cdiv(n - stop, 64), triton.cdiv(stop - start, _ROWS))](
                    table, labels, dead, start, stop, n, iou_threshold, has_labels, _BLOCK, _ROWS,
                    num_warps=4)
    return dead


_BLOCK = 4  # boxes against the 64 of a word: two pairs for each thread
_ROWS = 256


def _iou_block(aligned: bool) -> tuple[int, int]:
    return (128, 1) if aligned else (16, 16)


def _table(boxes: Tensor) -> Tensor:
    """What the kernels read of each box, float64 ``(N, 8)``, see :func:`_load`."""
    cx, cy, width, height, angle = boxes.double().unbind(1)
    w, h, cos, sin = width / 2, height / 2, angle.cos(), angle.sin()
    across, down = w * cos.abs() + h * sin.abs(), w * sin.abs() + h * cos.abs()
    return torch.stack([cx, cy, w, h, cos, sin, across, down], 1)


def compile_cases() -> Iterator[CompileCase]:
    """Every case that the launchers can pick."""
    types = {'table': '*fp64', 'table1': '*fp64', 'table2': '*fp64', 'out': '*fp32',
             'dead': '*i32', 'mask': '*i64', 'threshold': 'fp32'}

    def case(kernel, num_warps: int = 4, labels: str = '*i64', **constants) -> CompileCase:
        known = {**types, 'labels': labels, **dict.fromkeys(constants, 'constexpr')}
        return CompileCase(kernel, {name: known.get(name, 'i32') for name in kernel.arg_names},
                           constants, num_warps)

    for aligned in (False, True):
        block_n, block_m = _iou_block(aligned)
        for over_first in (False, True):
            yield case(_iou_kernel, OVER_FIRST=over_first, ALIGNED=aligned, BLOCK_N=block_n,
                       BLOCK_M=block_m)
    for has_labels, labels in ((False, '*i32'), (True, '*i64')):
        yield case(_mask_kernel, labels=labels, LABELS=has_labels, BLOCK=_BLOCK)
        yield case(_suppress_kernel, labels=labels, LABELS=has_labels, BLOCK=_BLOCK, ROWS=_ROWS)
    for words in (1, 2, 4, 8, 16, 32, CHUNK // 64):
        yield case(_settle_kernel, num_warps=8, WORDS=words)
