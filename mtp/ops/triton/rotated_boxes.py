"""Overlaps of rotated boxes: all pairs of two lists, or row with row.

Boxes first become columns of a table, so that sines, cosines and circumscribed boxes are computed
once per box, not once per pair. A program then goes through rows of 32 pairs, one per thread. If no
pair of a row has circumscribed boxes that meet, the row is done. Otherwise the pairs are computed
in float32, in the frame of the second box, with a bound of the rounding error. Where that bound
leaves a doubt (thin boxes, or an overlap near the threshold), they are computed again in float64.
So overlaps are accurate to 5e-5, and suppression (:mod:`mtp.ops.triton.rotated_nms`) decides as
float64 does, at the speed of float32, also on GPUs with slow float64.

Shapes: B images, N and M boxes per image, and W, the width of a table: N padded to whole blocks
with boxes of NaN, which overlap nothing.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase

LANES = 32  # second boxes per program, one per thread
BLOCK = 64  # a table's width is a multiple of this number of boxes
TABLE = 10  # values per box: see _table_kernel
ROWS = 32  # first boxes per program
STEP = 1  # first boxes at a time: with one, rows without near pairs cost next to nothing

# Bound of the error of an intersection in float32, relative to (the largest coordinate) x (half
# the sides of the second box): five times the worst error of 12 million random pairs.
_ERROR = tl.constexpr(2.0**-19)
_TOLERANCE = tl.constexpr(5e-5)  # accepted error of an overlap in float32
_NO_AREA = tl.constexpr(1e-14)


@triton.jit
def _table_kernel(
    boxes: tl.tensor, table: tl.tensor, num: tl.tensor, width: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """Convert ``(B, N, 5)`` boxes to a table ``(10, B, W)``: centre, half the circumscribed box,
    half the size, cosine and sine in float32, and their remainders to the float64 values."""
    box = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    inside = box < num
    boxes += (image * num + box) * 5
    table += image * width + box
    stride = tl.num_programs(1).to(tl.int64) * width
    nan = float('nan')
    x = tl.load(boxes, inside, other=nan).to(tl.float32)
    y = tl.load(boxes + 1, inside, other=nan).to(tl.float32)
    w = tl.load(boxes + 2, inside, other=nan).to(tl.float32) / 2
    h = tl.load(boxes + 3, inside, other=nan).to(tl.float32) / 2
    angle = tl.load(boxes + 4, inside, other=nan).to(tl.float64)
    cos, sin = tl.cos(angle), tl.sin(angle)
    # wider by more than the rounding error of float32, so that no meeting pair is missed
    reach_x = (w * tl.abs(cos) + h * tl.abs(sin)) * (1 + 1e-6)
    reach_y = (w * tl.abs(sin) + h * tl.abs(cos)) * (1 + 1e-6)
    tl.store(table, x)
    tl.store(table + stride, y)
    tl.store(table + 2 * stride, reach_x.to(tl.float32))
    tl.store(table + 3 * stride, reach_y.to(tl.float32))
    tl.store(table + 4 * stride, w)
    tl.store(table + 5 * stride, h)
    tl.store(table + 6 * stride, cos.to(tl.float32))
    tl.store(table + 7 * stride, sin.to(tl.float32))
    tl.store(table + 8 * stride, (cos - cos.to(tl.float32).to(tl.float64)).to(tl.float32))
    tl.store(table + 9 * stride, (sin - sin.to(tl.float32).to(tl.float64)).to(tl.float32))


@triton.jit
def extents(table: tl.tensor, width: tl.tensor, i: tl.tensor) -> tuple[tl.tensor, ...]:
    """Load centre and half the size of circumscribed boxes; ``width`` is that of all images."""
    table += i
    stride = width.to(tl.int64)
    return (
        tl.load(table),
        tl.load(table + stride),
        tl.load(table + 2 * stride),
        tl.load(table + 3 * stride),
    )


@triton.jit
def meeting(extent1: 'tuple[tl.tensor, ...]', extent2: 'tuple[tl.tensor, ...]') -> tl.tensor:
    """Return whether circumscribed boxes meet; False where a value is NaN."""
    x1, y1, reach_x1, reach_y1 = extent1
    x2, y2, reach_x2, reach_y2 = extent2
    return (tl.abs(x1 - x2) <= reach_x1 + reach_x2) & (tl.abs(y1 - y2) <= reach_y1 + reach_y2)


@triton.jit
def _box(
    table: tl.tensor, width: tl.tensor, i: tl.tensor, dtype: tl.constexpr
) -> tuple[tl.tensor, ...]:
    table += i
    stride = width.to(tl.int64)
    x, y = tl.load(table).to(dtype), tl.load(table + stride).to(dtype)
    w, h = tl.load(table + 4 * stride).to(dtype), tl.load(table + 5 * stride).to(dtype)
    cos, sin = tl.load(table + 6 * stride).to(dtype), tl.load(table + 7 * stride).to(dtype)
    if dtype == tl.float64:
        cos += tl.load(table + 8 * stride).to(dtype)
        sin += tl.load(table + 9 * stride).to(dtype)
    return x, y, w, h, cos, sin


@triton.jit
def _inverse(step: tl.tensor) -> tl.tensor:
    """Return the inverse of an edge's extent; any finite value for a parallel edge."""
    return 1.0 / tl.where(tl.abs(step) <= 1e-12, 1.0, step)


@triton.jit
def _overlap(
    table1: tl.tensor,
    width1: tl.tensor,
    i: tl.tensor,
    table2: tl.tensor,
    width2: tl.tensor,
    j: tl.tensor,
    IOF: tl.constexpr,
    dtype: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return the overlap of boxes i with boxes j, and a bound of its error in float32.

    Compute the integral along the first box's edges of ``mtp.ops.rotated_boxes._intersection``.
    """
    x1, y1, w, h, cos1, sin1 = _box(table1, width1, i, dtype)
    x2, y2, a, b, cos2, sin2 = _box(table2, width2, j, dtype)
    dx, dy = x1 - x2, y1 - y2
    x0, y0 = dx * cos2 + dy * sin2, dy * cos2 - dx * sin2
    cos, sin = cos1 * cos2 + sin1 * sin2, sin1 * cos2 - cos1 * sin2
    # s leads from the centre to the middle of an edge, e from there to the edge's end
    sx, sy, ex, ey = h * sin, -h * cos, w * cos, w * sin
    inverse_sx, inverse_sy, inverse_ex, inverse_ey = (
        _inverse(2 * sx),
        _inverse(2 * sy),
        _inverse(2 * ex),
        _inverse(2 * ey),
    )
    total = tl.zeros_like(cos)
    for _ in range(4):
        x, y = x0 + sx - ex, y0 + sy - ey
        t, s = (-b - y) * inverse_ey, (b - y) * inverse_ey
        first = tl.minimum(tl.maximum(tl.minimum(t, s), 0.0), 1.0)
        last = tl.minimum(tl.maximum(tl.maximum(t, s), 0.0), 1.0)
        t, s = (-a - x) * inverse_ex, (a - x) * inverse_ex
        low = tl.minimum(tl.maximum(tl.minimum(t, s), first), last)
        high = tl.minimum(tl.maximum(tl.maximum(t, s), first), last)
        f0 = tl.minimum(tl.maximum(x + first * (2 * ex), -a), a) + a
        f1 = tl.minimum(tl.maximum(x + low * (2 * ex), -a), a) + a
        f2 = tl.minimum(tl.maximum(x + high * (2 * ex), -a), a) + a
        f3 = tl.minimum(tl.maximum(x + last * (2 * ex), -a), a) + a
        total += ey * (
            (low - first) * (f0 + f1) + (high - low) * (f1 + f2) + (last - high) * (f2 + f3)
        )
        sx, sy, ex, ey = ex, ey, -sx, -sy  # a quarter turn to the next edge
        inverse_sx, inverse_sy, inverse_ex, inverse_ey = (
            inverse_ex,
            inverse_ey,
            -inverse_sx,
            -inverse_sy,
        )
    intersection = total
    area1, area2 = 4 * w * h, 4 * a * b
    if IOF:
        base, least = area1, area1
    else:
        base, least = area1 + area2 - intersection, tl.maximum(area1, area2)
    # NaN, from infinite boxes, counts as no overlap
    valid = (area1 >= _NO_AREA) & (area2 >= _NO_AREA) & (intersection > 0)
    overlap = tl.where(valid, intersection / tl.maximum(base, _NO_AREA), 0.0)
    overlap = tl.where(overlap > 0, overlap, 0.0)
    reach = tl.abs(x0) + tl.abs(y0) + w + h + a + b  # no coordinate is larger
    return overlap, _ERROR * reach * (a + b) / least


@triton.jit
def excess(
    table1: tl.tensor,
    width1: tl.tensor,
    i: tl.tensor,
    table2: tl.tensor,
    width2: tl.tensor,
    j: tl.tensor,
    near: tl.tensor,
    threshold: tl.tensor,
    IOF: tl.constexpr,
    DECIDE: tl.constexpr,
) -> tl.tensor:
    """Return overlap minus threshold: with an exact sign if DECIDE, else within the tolerance."""
    single = tl.cast(threshold, tl.float32)
    excess = tl.zeros(near.shape, tl.float32) - single
    if tl.max(near.to(tl.int32)) > 0:
        overlap, error = _overlap(table1, width1, i, table2, width2, j, IOF, tl.float32)
        excess = tl.where(near, overlap - single, excess)
        if DECIDE:
            sure = error < tl.abs(excess)
        else:
            sure = error < _TOLERANCE
        doubt = near & (sure == 0)  # true where the error is NaN, too
        if tl.max(doubt.to(tl.int32)) > 0:
            exact, _ = _overlap(table1, width1, i, table2, width2, j, IOF, tl.float64)
            excess = tl.where(doubt, (exact - threshold).to(tl.float32), excess)
    return excess


@triton.jit
def _pairwise_kernel(
    table1: tl.tensor,
    table2: tl.tensor,
    overlaps: tl.tensor,
    num1: tl.tensor,
    width1: tl.tensor,
    num2: tl.tensor,
    width2: tl.tensor,
    IOF: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Compute ``(B, N, M)`` overlaps: a program takes ROWS first boxes and LANES second boxes."""
    program = tl.program_id(0)
    images, image = tl.num_programs(1), tl.program_id(1).to(tl.int64)
    table1 += image * width1
    table2 += image * width2
    overlaps += image * num1 * num2
    width1, width2 = images * width1, images * width2
    tiles = tl.cdiv(num2, LANES)
    j = (program % tiles * LANES + tl.arange(0, LANES))[None, :]
    extent = extents(table2, width2, j)
    for start in range(0, ROWS, STEP):
        i = (program // tiles * ROWS + start + tl.arange(0, STEP))[:, None]
        near = meeting(extents(table1, width1, i), extent)
        overlap = excess(table1, width1, i, table2, width2, j, near, 0.0, IOF, False)
        tl.store(overlaps + i.to(tl.int64) * num2 + j, overlap, (i < num1) & (j < num2))


@triton.jit
def _aligned_kernel(
    table1: tl.tensor,
    table2: tl.tensor,
    overlaps: tl.tensor,
    num: tl.tensor,
    width: tl.tensor,
    IOF: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Compute ``(N,)`` overlaps of row i with row i."""
    i = tl.program_id(0) * LANES + tl.arange(0, LANES)
    near = meeting(extents(table1, width, i), extents(table2, width, i))
    overlap = excess(table1, width, i, table2, width, i, near, 0.0, IOF, False)
    tl.store(overlaps + i, overlap, i < num)


@torch.library.custom_op('mtp::box_iou_rotated', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin()
def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, mode: str, aligned: bool) -> Tensor:
    """Launch the kernels of :func:`mtp.ops.box_iou_rotated` on checked tensors."""
    overlaps = _overlaps(boxes1, boxes2, mode, aligned)
    if overlaps.numel():
        with torch.cuda.device_of(boxes1):
            _launch_overlaps(overlaps, boxes1, boxes2, mode == 'iof')
    return overlaps


@box_iou_rotated.register_fake
def _overlaps(boxes1: Tensor, boxes2: Tensor, mode: str, aligned: bool) -> Tensor:
    shape = boxes1.shape[:-1] if aligned else (*boxes1.shape[:-1], boxes2.shape[-2])
    return boxes1.new_empty(shape, dtype=torch.float32)


def _launch_overlaps(overlaps: Tensor, boxes1: Tensor, boxes2: Tensor, iof: bool) -> None:
    tables = make_table(boxes1), make_table(boxes2)
    (num1, width1), (num2, width2) = (
        (boxes.shape[-2], table.shape[-1]) for boxes, table in zip((boxes1, boxes2), tables)
    )
    if overlaps.dim() == 1:
        _aligned_kernel[(triton.cdiv(num1, LANES),)](
            *tables, overlaps, num1, width1, IOF=iof, LANES=LANES, num_warps=1
        )
    else:
        programs = triton.cdiv(num1, ROWS) * triton.cdiv(num2, LANES)
        _pairwise_kernel[(programs, boxes1.shape[:-2].numel())](
            *tables,
            overlaps,
            num1,
            width1,
            num2,
            width2,
            IOF=iof,
            ROWS=ROWS,
            STEP=STEP,
            LANES=LANES,
            num_warps=1,
        )


def make_table(boxes: Tensor) -> Tensor:
    """Convert boxes ``(N, 5)`` or ``(B, N, 5)`` to the float32 table ``(10, [B,] W)`` of
    :func:`_table_kernel`."""
    images, num = boxes.shape[:-2], boxes.shape[-2]
    width = triton.cdiv(num, BLOCK) * BLOCK
    table = boxes.new_empty(TABLE, *images, width, dtype=torch.float32)
    _table_kernel[(width // BLOCK, images.numel())](
        boxes.contiguous(), table, num, width, BLOCK=BLOCK, num_warps=2
    )
    return table


def compile_cases() -> Iterator[CompileCase]:
    """Yield every case that the launchers can pick."""
    types = {
        'boxes': '*fp32',
        'table': '*fp32',
        'table1': '*fp32',
        'table2': '*fp32',
        'overlaps': '*fp32',
    }
    tile = {'ROWS': ROWS, 'STEP': STEP, 'LANES': LANES}

    def case(kernel: Any, constants: dict, num_warps: int = 1, **others: str) -> CompileCase:
        known = types | others | dict.fromkeys(constants, 'constexpr')
        return CompileCase(
            kernel,
            {name: known.get(name, 'i32') for name in kernel.arg_names},
            constants,
            num_warps,
        )

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield case(_table_kernel, {'BLOCK': BLOCK}, 2, boxes='*' + TRITON_NAMES[dtype])
    for iof in (False, True):
        yield case(_aligned_kernel, {'IOF': iof, 'LANES': LANES})
        yield case(_pairwise_kernel, {'IOF': iof, **tile})
