"""Bias and ReLU of several maps in one launch, and their gradients in two.

Maps are channels-last, so that a pixel's channels are a row of memory. Forward, a program makes a
tile of rows and channels of the result; a row is read from the map that has its pixel. Backward, a
program goes through a chunk of rows: it writes the gradient of their pixels, and sums up that of
the bias. The second launch adds up the chunks' sums. Nothing is added to memory, so that results
are the same bits in every run.

Memory traffic: forward the maps are read and the result written, once; backward the gradient and
the result are read and the gradients of the maps written, once.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import DTYPES, else_twin
from mtp.ops.triton.column_sums import add_chunks, chunking
from mtp.ops.triton.common import (
    TRITON_NAMES,
    CompileCase,
    channels_last,
    contiguous,
    empty_channels_last,
)

# Rows and channels of a program at a time: 16 bytes of each thread, in 16 bits. With twice the
# rows, the backward kernel takes up to 199 registers.
TILE = {'ROWS': 16, 'BLOCK_C': 64}


@triton.jit
def _pixels_of(
    row: tl.tensor, first: tl.tensor, pixels: tl.tensor, total: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Return which rows a map has, and the number of their pixels among those of all its images."""
    pixel = row % total - first
    return (pixel >= 0) & (pixel < pixels), (row // total * pixels + pixel).to(tl.int64)


@triton.jit
def _bias_relu_kernel(
    maps: 'tuple[tl.tensor, ...]',
    bias: tl.tensor,
    out: tl.tensor,
    pixels: 'tuple[tl.tensor, ...]',
    rows: tl.tensor,
    total: tl.tensor,
    channels: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (row < rows)[:, None] & (c < channels)[None, :]
    value, first = tl.zeros((ROWS, BLOCK_C), tl.float32), 0
    for i in tl.static_range(len(maps)):
        own, pixel = _pixels_of(row, first, pixels[i], total)
        places = pixel[:, None] * channels + c
        value += tl.load(maps[i] + places, there & own[:, None], 0).to(tl.float32)
        first += pixels[i]
    value += tl.load(bias + c, c < channels, 0).to(tl.float32)[None, :]
    places = row.to(tl.int64)[:, None] * channels + c
    tl.store(out + places, tl.where(value <= 0, 0, value), there)  # NaN stays NaN


@triton.jit
def _bias_relu_backward_kernel(
    grad: tl.tensor,
    out: tl.tensor,
    grads: 'tuple[tl.tensor, ...]',
    parts: tl.tensor,
    pixels: 'tuple[tl.tensor, ...]',
    rows: tl.tensor,
    share: tl.tensor,
    total: tl.tensor,
    channels: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    chunk = tl.program_id(1)
    end = tl.minimum((chunk + 1) * share, rows)
    sums = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for start in range(chunk * share, end, ROWS):
        row = start + tl.arange(0, ROWS)
        there = (row < end)[:, None] & (c < channels)[None, :]
        places = row.to(tl.int64)[:, None] * channels + c
        cut = tl.load(out + places, there, 0) <= 0
        value = tl.where(cut, 0, tl.load(grad + places, there, 0).to(tl.float32))
        sums += value
        first = 0
        for i in tl.static_range(len(grads)):
            own, pixel = _pixels_of(row, first, pixels[i], total)
            tl.store(grads[i] + pixel[:, None] * channels + c, value, there & own[:, None])
            first += pixels[i]
    tl.store(parts + chunk.to(tl.int64) * channels + c, tl.sum(sums, 0), c < channels)


@torch.library.custom_op('mtp::bias_relu', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin()
def bias_relu(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.bias_relu` on checked tensors."""
    out = _fake(maps, bias)
    images, total, channels = out.shape
    rows = images * total
    with torch.cuda.device_of(out):  # Triton launches on the current device
        _bias_relu_kernel[triton.cdiv(rows, TILE['ROWS']), triton.cdiv(channels, TILE['BLOCK_C'])](
            tuple(map(channels_last, maps)),
            bias.contiguous(),
            out,
            tuple(x.shape[2] * x.shape[3] for x in maps),
            rows,
            total,
            channels,
            **TILE,
        )
    return out


@bias_relu.register_fake
def _fake(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    pixels = sum(x.shape[2] * x.shape[3] for x in maps)
    return maps[0].new_empty(maps[0].shape[0], pixels, bias.shape[0])


@torch.library.custom_op('mtp::bias_relu_backward', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin(torch.preserve_format)
def bias_relu_backward(
    grad: Tensor, out: Tensor, heights: Sequence[int], widths: Sequence[int]
) -> list[Tensor]:
    """Return the gradients ``(B, C, h, w)`` of the maps, channels-last, and that of the bias.

    Args:
        grad: gradient of the result.
        out: result.
        heights, widths: sizes of the maps.
    """
    *grads, grad_bias = _backward_fake(grad, out, heights, widths)
    images, total, channels = out.shape
    share, chunks = chunking([images * total])
    parts = out.new_empty(chunks, channels, dtype=torch.float32)
    with torch.cuda.device_of(out):
        _bias_relu_backward_kernel[triton.cdiv(channels, TILE['BLOCK_C']), chunks](
            *contiguous(grad, out),
            tuple(grads),
            parts,
            tuple(h * w for h, w in zip(heights, widths)),
            images * total,
            share,
            total,
            channels,
            **TILE,
        )
    add_chunks(parts, [grad_bias], [images * total], share)
    return [*grads, grad_bias]


@bias_relu_backward.register_fake
def _backward_fake(
    grad: Tensor, out: Tensor, heights: Sequence[int], widths: Sequence[int]
) -> list[Tensor]:
    images, _, channels = out.shape
    shapes = [(images, channels, *size) for size in zip(heights, widths)]
    maps = [empty_channels_last(grad, shape, grad.dtype) for shape in shapes]
    return [*maps, grad.new_empty(channels)]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    maps, _ = inputs
    ctx.save_for_backward(output)
    ctx.heights, ctx.widths = ([x.shape[dim] for x in maps] for dim in (2, 3))


def _gradients(ctx: Any, grad: Tensor) -> tuple[list[Tensor], Tensor]:
    (out,) = ctx.saved_tensors
    *maps, bias = bias_relu_backward(grad, out, ctx.heights, ctx.widths)
    return maps, bias


bias_relu.register_autograd(_gradients, setup_context=_save)


def compile_cases() -> Iterator[CompileCase]:
    """Yield both kernels for two maps in each dtype."""
    for dtype in DTYPES:
        for kernel in (_bias_relu_kernel, _bias_relu_backward_kernel):
            pointer = f'*{TRITON_NAMES[dtype]}'
            types: dict[str, str | tuple[str, ...]] = {
                **dict.fromkeys(kernel.arg_names, 'i32'),
                **dict.fromkeys(('bias', 'out', 'grad'), pointer),
                **dict.fromkeys(('maps', 'grads'), 2 * (pointer,)),
                'parts': '*fp32',
                'pixels': 2 * ('i32',),
                **dict.fromkeys(TILE, 'constexpr'),
            }
            yield CompileCase(kernel, {name: types[name] for name in kernel.arg_names}, TILE)
