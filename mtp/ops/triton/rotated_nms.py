"""Greedy non-maximum suppression of rotated boxes.

Boxes are taken by falling score, ``CHUNK`` at a time. (1) The first kernel sets a bit for each
overlapping pair of the chunk. (2) One program settles the chunk in blocks of 64 boxes: a block by
its own bits, then the rows of its kept boxes are merged to suppress boxes of later blocks. (3) The
kept boxes suppress the boxes after the chunk. Memory is 2 MB of bits, and 41 bytes per box. The
host does not wait: the result is a flag per box (only turning flags into indices has to wait, for
their number).

Estimate for 10k boxes on an H200, not measured: one launch for the table and 8 for 3 chunks; at
most 50 million pairs of some 300 instructions, 0.5 ms if all were near each other; 157 steps of
about 2 microseconds, 0.3 ms. A chain of boxes, each overlapping only the next, takes up to 64
sweeps per step.

:mod:`mtp.ops.triton.rotated_boxes` explains the table of boxes and how a pair is decided.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import CompileCase
from mtp.ops.triton.rotated_boxes import (
    BLOCK,
    LANES,
    ROWS,
    STEP,
    excess,
    extents,
    make_table,
    meeting,
)

CHUNK = 4096  # boxes suppressed at a time


@triton.jit
def _suppressed(
    table: tl.tensor,
    width: tl.tensor,
    labels: 'tl.tensor | None',
    num: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    asked: tl.tensor,
    extent: 'tuple[tl.tensor, ...]',
    label: tl.tensor,
    threshold: tl.tensor,
) -> tl.tensor:
    """Return which of the ``asked`` pairs have boxes of one label that overlap too much.

    ``extent`` and ``label`` are those of boxes j.
    """
    near = asked & meeting(extents(table, width, i), extent)
    if labels is not None:
        near &= tl.load(labels + i, i < num, other=0) == label
    return near & (excess(table, width, i, table, width, j, near, threshold, False, True) > 0)


@triton.jit
def _label(labels: 'tl.tensor | None', num: tl.tensor, j: tl.tensor) -> tl.tensor:
    if labels is None:
        label = j
    else:
        label = tl.load(labels + j, j < num, other=0)
    return label


@triton.jit
def _bits_kernel(
    table: tl.tensor,
    labels: 'tl.tensor | None',
    keep: tl.tensor,
    bits: tl.tensor,
    num: tl.tensor,
    width: tl.tensor,
    start: tl.tensor,
    threshold: tl.float64,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Set bits ``(CHUNK, CHUNK / 32)`` for the later boxes that a box of the chunk would suppress.

    Words left of the diagonal's blocks of ``2 * LANES`` boxes are not written.
    """
    row_tile, word = tl.program_id(0), tl.program_id(1)
    if row_tile * ROWS < (word // 2 + 1) * 2 * LANES:
        lane = tl.arange(0, LANES)[None, :]
        j = start + word * LANES + lane
        extent, label = extents(table, width, j), _label(labels, num, j)
        alive = tl.load(keep + j, j < num, other=0)
        for first in range(0, ROWS, STEP):
            row = (row_tile * ROWS + first + tl.arange(0, STEP))[:, None]
            i = start + row
            asked = alive & tl.load(keep + i, i < num, other=0) & (i < j)
            over = _suppressed(table, width, labels, num, i, j, asked, extent, label, threshold)
            value = tl.sum(over.to(tl.int32) << lane, 1, keep_dims=True)
            tl.store(bits + row * (CHUNK // LANES) + word, value)


@triton.jit
def _or(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return a | b


@triton.jit
def merge(rows: tl.tensor) -> tl.tensor:
    """Return the bits set in any of the rows."""
    return tl.reduce(rows, 0, _or)


@triton.jit
def _suppressed_by(own: tl.tensor, out: tl.tensor, lane: tl.tensor) -> tl.tensor:
    """Return the bits of boxes that a block suppresses; boxes whose bit is in ``out`` suppress
    none."""
    own = tl.where((out >> lane) & 1 == 0, own, 0)
    # a warp combines 32 bits in one instruction
    low, high = merge(own.to(tl.int32)), merge((own >> 32).to(tl.int32))
    return (high.to(tl.int64) << 32) | low.to(tl.uint32, bitcast=True).to(tl.int64)


@triton.jit
def settle(own: tl.tensor, before: tl.tensor, lane: tl.tensor) -> tl.tensor:
    """Return the bits of a block's 64 boxes that are suppressed.

    ``before`` has the bits of those that earlier blocks suppress, ``own`` for each box the bits of
    the later boxes of the block that it would suppress. As in the torch twin, each sweep settles at
    least the next box of every chain of overlaps: there are two or three sweeps, and 64 at most.
    """
    settled, out = before, before | _suppressed_by(own, before, lane)
    while out != settled:
        settled, out = out, before | _suppressed_by(own, out, lane)
    return out


@triton.jit
def _settle_kernel(
    bits: tl.tensor,
    keep: tl.tensor,
    kept: tl.tensor,
    num_kept: tl.tensor,
    num: tl.tensor,
    start: tl.tensor,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Store the kept boxes of the chunk, as flags and as a list. One program takes all blocks."""
    WORDS: tl.constexpr = CHUNK // BLOCK
    lane, word = tl.arange(0, BLOCK), tl.arange(0, WORDS)
    box = start + word[:, None] * BLOCK + lane[None, :]
    gone = tl.load(keep + box, box < num, other=0) == 0
    removed = tl.sum(gone.to(tl.int64) << lane[None, :], 1)
    count = 0
    for block in range(tl.cdiv(tl.minimum(num - start, CHUNK), BLOCK)):
        rows = bits + block * BLOCK * WORDS
        before = tl.sum(tl.where(word == block, removed, 0))
        own = tl.load(rows + lane * WORDS + block)
        out = settle(own, before, lane)
        stays = (out >> lane) & 1 == 0
        later = tl.load(
            rows + lane[:, None] * WORDS + word[None, :],
            stays[:, None] & (word > block)[None, :],
            other=0,
        )
        removed |= merge(later)
        index = start + block * BLOCK + lane
        tl.store(keep + index, stays, index < num)
        tl.store(kept + count + tl.cumsum(stays.to(tl.int32), 0) - 1, index, stays)
        count += tl.sum(stays.to(tl.int32))
    tl.store(num_kept, count)


@triton.jit
def _suppress_kernel(
    table: tl.tensor,
    labels: 'tl.tensor | None',
    keep: tl.tensor,
    kept: tl.tensor,
    num_kept: tl.tensor,
    num: tl.tensor,
    width: tl.tensor,
    stop: tl.tensor,
    threshold: tl.float64,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Clear the flags of boxes from ``stop`` on that the chunk's kept boxes suppress.

    A program takes LANES of the former and ROWS of the latter.
    """
    count = tl.load(num_kept)
    row = tl.program_id(1) * ROWS
    if row < count:
        j = (stop + tl.program_id(0) * LANES + tl.arange(0, LANES))[None, :]
        extent, label = extents(table, width, j), _label(labels, num, j)
        alive = tl.load(keep + j, j < num, other=0)
        gone = tl.zeros((1, LANES), tl.int32)
        for first in range(row, tl.minimum(row + ROWS, count), STEP):
            place = (first + tl.arange(0, STEP))[:, None]
            i = tl.load(kept + place, place < count, other=0)
            asked = alive & (gone == 0) & (place < count)
            over = _suppressed(table, width, labels, num, i, j, asked, extent, label, threshold)
            gone |= tl.max(over.to(tl.int32), 0, keep_dims=True)
        tl.store(keep + j, gone == 0, gone > 0)  # several programs may clear one flag


@torch.library.custom_op('mtp::kept_rotated', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin()
def kept_rotated(boxes: Tensor, iou_threshold: float, labels: Tensor | None) -> Tensor:
    """Launch the kernels of :func:`mtp.ops.nms_rotated` on boxes sorted by falling score.

    Arguments and result are those of :func:`mtp.ops.rotated_boxes.kept_rotated_torch`. The host
    does not wait for the device.
    """
    with torch.cuda.device_of(boxes):
        return _launch_kept(boxes, iou_threshold, labels)


@kept_rotated.register_fake
def _(boxes: Tensor, iou_threshold: float, labels: Tensor | None) -> Tensor:
    return boxes.new_empty(len(boxes), dtype=torch.bool)


def _launch_kept(boxes: Tensor, iou_threshold: float, labels: Tensor | None) -> Tensor:
    num = len(boxes)
    keep = boxes.new_ones(num, dtype=torch.bool)
    table = make_table(boxes)
    labels = None if labels is None else labels.contiguous()
    width = table.shape[1]
    bits = boxes.new_empty(CHUNK, CHUNK // LANES, dtype=torch.int32)
    kept = boxes.new_empty(CHUNK, dtype=torch.int32)
    num_kept = boxes.new_empty(1, dtype=torch.int32)
    tile = {'ROWS': ROWS, 'STEP': STEP, 'LANES': LANES}
    for start in range(0, num, CHUNK):
        stop = min(start + CHUNK, num)
        rows = triton.cdiv(stop - start, BLOCK) * BLOCK // ROWS
        _bits_kernel[(rows, triton.cdiv(stop - start, BLOCK) * BLOCK // LANES)](
            table,
            labels,
            keep,
            bits,
            num,
            width,
            start,
            iou_threshold,
            CHUNK=CHUNK,
            **tile,
            num_warps=1,
        )
        _settle_kernel[(1,)](
            bits.view(torch.int64),
            keep,
            kept,
            num_kept,
            num,
            start,
            CHUNK=CHUNK,
            BLOCK=BLOCK,
            num_warps=4,
        )
        if stop < num:
            _suppress_kernel[(triton.cdiv(num - stop, LANES), rows)](
                table,
                labels,
                keep,
                kept,
                num_kept,
                num,
                width,
                stop,
                iou_threshold,
                **tile,
                num_warps=1,
            )
    return keep


def compile_cases() -> Iterator[CompileCase]:
    """Yield every case that the launcher can pick, with labels of int64 and float32."""
    types = {
        'table': '*fp32',
        'labels': '*i64',
        'keep': '*i1',
        'bits': '*i32',
        'kept': '*i32',
        'num_kept': '*i32',
        'threshold': 'fp64',
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

    yield case(_settle_kernel, {'CHUNK': CHUNK, 'BLOCK': BLOCK}, 4, bits='*i64')
    for kernel, constants in ((_bits_kernel, {'CHUNK': CHUNK, **tile}), (_suppress_kernel, tile)):
        yield case(kernel, constants)
        yield case(kernel, constants, labels='*fp32')
        yield case(kernel, constants | {'labels': None})
