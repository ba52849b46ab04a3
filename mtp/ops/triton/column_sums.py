"""Sums over the rows of many matrices in two launches, whatever their number.

In the first, a program sums a chunk of rows of one operand's block of columns; the grid covers the
blocks of all operands, and as many chunks as the longest operand has. In the second, a program adds
up what the chunks have left of a block of columns. Nothing is added to memory by two programs, so
that results are the same bits in every run.

Each operand is read once: a plain gradient in bfloat16 takes 2 bytes an element, a norm those of
its gradient, its addend and its input. What is written between the launches is a number a column
for each chunk, at most 3 % of that.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase, contiguous

ROWS = 16  # rows that a program loads at once; with 128 columns, 16 bytes of each thread or more
BLOCK_C = 128
FINISH_C = 32
FEWEST_ROWS = 128  # of a chunk: enough that partial sums are few beside the operands
MOST_CHUNKS = 256


@triton.jit
def _chunks_kernel(
    grads: 'tuple[tl.tensor, ...]',
    addends: 'tuple[tl.tensor, ...]',
    inputs: 'tuple[tl.tensor, ...]',
    means: 'tuple[tl.tensor, ...]',
    rstds: 'tuple[tl.tensor, ...]',
    parts: tl.tensor,
    widths: 'tuple[tl.tensor, ...]',
    rows: 'tuple[tl.tensor, ...]',
    share: tl.tensor,
    total: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    block, chunk = tl.program_id(0), tl.program_id(1)
    parts += chunk.to(tl.int64) * total
    products = parts
    for i in tl.static_range(len(grads)):
        products += widths[i]
    for i in tl.static_range(len(grads)):
        width = widths[i]
        if (block >= 0) & (block * BLOCK_C < width) & (chunk * share < rows[i]):
            end = tl.minimum((chunk + 1) * share, rows[i])
            c = block * BLOCK_C + tl.arange(0, BLOCK_C)
            sums = tl.zeros((ROWS, BLOCK_C), tl.float32)
            sums_of_products = tl.zeros((ROWS, BLOCK_C), tl.float32)
            for first in range(chunk * share, end, ROWS):
                row = first + tl.arange(0, ROWS)
                there = (row < end)[:, None] & (c < width)[None, :]
                places = row.to(tl.int64)[:, None] * width + c[None, :]
                grad = tl.load(grads[i] + places, there, other=0).to(tl.float32)
                if i < len(addends):
                    grad += tl.load(addends[i] + places, there, other=0).to(tl.float32)
                sums += grad
                if i < len(inputs):
                    x = tl.load(inputs[i] + places, there, other=0).to(tl.float32)
                    if i < len(means):
                        mean = tl.load(means[i] + row, row < end, other=0)[:, None]
                        rstd = tl.load(rstds[i] + row, row < end, other=0)[:, None]
                        x = (x - mean) * rstd
                    sums_of_products += grad * x
            tl.store(parts + c, tl.sum(sums, 0), c < width)
            if i < len(inputs):
                tl.store(products + c, tl.sum(sums_of_products, 0), c < width)
        block -= tl.cdiv(width, BLOCK_C)
        parts += width
        if i < len(inputs):
            products += width


@triton.jit
def _finish_kernel(
    parts: tl.tensor,
    sums: 'tuple[tl.tensor, ...]',
    widths: 'tuple[tl.tensor, ...]',
    chunks: 'tuple[tl.tensor, ...]',
    total: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    block = tl.program_id(0)
    for i in tl.static_range(len(sums)):
        width = widths[i]
        if (block >= 0) & (block * BLOCK_C < width):
            c = block * BLOCK_C + tl.arange(0, BLOCK_C)
            value = tl.zeros((ROWS, BLOCK_C), tl.float32)
            for first in range(0, chunks[i], ROWS):
                chunk = first + tl.arange(0, ROWS)
                there = (chunk < chunks[i])[:, None] & (c < width)[None, :]
                places = chunk.to(tl.int64)[:, None] * total + c[None, :]
                value += tl.load(parts + places, there, other=0)
            tl.store(sums[i] + c, tl.sum(value, 0), c < width)
        block -= tl.cdiv(width, BLOCK_C)
        parts += width


@else_twin()
def column_sums(
    grads: Sequence[Tensor],
    addends: Sequence[Tensor],
    inputs: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
    rounded: Sequence[bool],
) -> list[Tensor]:
    """Launch the kernels of :func:`mtp.ops.column_sums.column_sums`."""
    rows = tuple(map(len, grads))
    share, most = chunking(rows)
    sums = [
        grad.new_empty(grad.shape[1], dtype=grad.dtype if narrow else torch.float32)
        for matrices in (grads, inputs)
        for _, grad, narrow in zip(matrices, grads, rounded)
    ]
    widths = tuple(map(len, sums))
    parts = grads[0].new_empty(most, sum(widths), dtype=torch.float32)
    operands = [contiguous(*kind) for kind in (grads, addends, inputs, means, rstds)]
    with torch.cuda.device_of(parts):  # Triton launches on the current device
        _chunks_kernel[(blocks(widths[: len(grads)], BLOCK_C), most)](
            *operands, parts, widths, rows, share, sum(widths), ROWS=ROWS, BLOCK_C=BLOCK_C
        )
    add_chunks(parts, sums, rows + rows[: len(inputs)], share)
    return sums


def chunking(rows: Sequence[int]) -> tuple[int, int]:
    """Return the rows of a chunk, and the number of chunks of the longest operand.

    Args:
        rows: number of rows of each operand.
    """
    share = max(FEWEST_ROWS, triton.cdiv(max(rows), MOST_CHUNKS))
    return share, triton.cdiv(max(rows), share)


def blocks(widths: Sequence[int], columns: int) -> int:
    """Return how many blocks of columns operands of these widths have."""
    return sum(triton.cdiv(width, columns) for width in widths)


def add_chunks(parts: Tensor, sums: Sequence[Tensor], rows: Sequence[int], share: int) -> None:
    """Launch the kernel that adds up what chunks of rows have left.

    Args:
        parts: sums of each chunk for all operands, side by side, float32 ``(chunks, sum of C)``.
        sums: results, ``(C,)`` each, to be written.
        rows: number of rows of each operand.
        share: number of rows of a chunk.
    """
    widths, chunks = tuple(map(len, sums)), tuple(triton.cdiv(number, share) for number in rows)
    with torch.cuda.device_of(parts):
        _finish_kernel[(blocks(widths, FINISH_C),)](
            parts, tuple(sums), widths, chunks, sum(widths), ROWS=ROWS, BLOCK_C=FINISH_C
        )


def compile_cases() -> Iterator[CompileCase]:
    """Yield a block's sums: a norm with an addend, a normalised one, and a linear layer."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        wide, name = '*fp32', f'*{TRITON_NAMES[dtype]}'
        chunks: dict[str, str | tuple[str, ...]] = {
            'grads': (wide, name, name),
            'addends': (name,),
            'inputs': (wide, name),
            'means': (wide,),
            'rstds': (wide,),
            'rows': ('i32',) * 3,
        }
        finish: dict[str, str | tuple[str, ...]] = {
            'sums': (wide, wide, name, wide, wide),
            'chunks': ('i32',) * 5,
        }
        yield _case(_chunks_kernel, chunks, BLOCK_C)
        yield _case(_finish_kernel, finish, FINISH_C)


def _case(kernel: Any, types: dict[str, str | tuple[str, ...]], columns: int) -> CompileCase:
    types = {
        **dict.fromkeys(kernel.arg_names, 'i32'),
        'parts': '*fp32',
        'widths': ('i32',) * 5,
        **types,
        **dict.fromkeys(('ROWS', 'BLOCK_C'), 'constexpr'),
    }
    return CompileCase(kernel, types, {'ROWS': ROWS, 'BLOCK_C': columns})
