"""Bilinear resizing of several maps that are concatenated: one launch in each direction.

Maps are channels-last, so that a pixel's channels are read and written in rows. Forward, a program
makes a tile of pixels and channels of the result, of the map that these channels come from.
Backward, it makes the gradient of one pixel of one map: it looks at all pixels of the result that
have read this one, some at a time. Nothing is added to memory, so that results are the same bits in
every run.

Positions are fractions of integers, hence exact: the backward pass finds the pixels and weights of
the forward pass. What has no weight is not read, and a map of the result's size is a copy.

Memory traffic: forward each map is read and the result written, once; backward each map's share of
the gradient is read once, and about three times more from the cache.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import (
    TRITON_NAMES,
    CompileCase,
    channels_last,
    empty_channels_last,
    pixel_of,
)

# Pixels and channels of a program at a time. Where maps double, a pixel has 16 readers; with tiles
# of twice the size, the forward kernel takes all 255 registers.
TILE = {'PIXELS': 16, 'BLOCK_C': 64}


@triton.jit
def _neighbours(i: tl.tensor, old: tl.tensor, new: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return the first of the two pixels that pixel ``i`` reads, and the weight of the second."""
    place = tl.maximum((2 * i + 1) * old - new, 0)
    first = place // (2 * new)
    weight = (place - first * 2 * new).to(tl.float32) / (2 * new)
    return first, tl.where(first + 1 < old, weight, 0)


@triton.jit
def _readers(i: tl.tensor, old: tl.tensor, new: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return the first of the pixels that read pixel ``i``, and their number."""
    first = tl.cdiv(tl.maximum((2 * i - 1) * new - old, 0), 2 * old)
    return first, tl.minimum(((2 * i + 3) * new - old) // (2 * old) + 1, new) - first


@triton.jit
def _weight(reader: tl.tensor, i: tl.tensor, old: tl.tensor, new: tl.tensor) -> tl.tensor:
    """Return the weight that pixel ``i`` has for a reader."""
    first, weight = _neighbours(reader, old, new)
    return tl.where(first == i, 1 - weight, tl.where(first + 1 == i, weight, 0))


@triton.jit
def _resize_kernel(
    maps: 'tuple[tl.tensor, ...]',
    addend: 'tl.tensor | None',
    out: tl.tensor,
    heights: 'tuple[tl.tensor, ...]',
    widths: 'tuple[tl.tensor, ...]',
    channels: 'tuple[tl.tensor, ...]',
    images: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    total: tl.tensor,
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    image, row, column = pixel_of(pixel, height, width)
    block, start = tl.program_id(1), 0
    for i in tl.static_range(len(maps)):
        blocks = tl.cdiv(channels[i], BLOCK_C)
        if (block >= 0) & (block < blocks):
            c = block * BLOCK_C + tl.arange(0, BLOCK_C)
            there = (pixel < images * height * width)[:, None] & (c < channels[i])[None, :]
            top, down = _neighbours(row, heights[i], height)
            left, right = _neighbours(column, widths[i], width)
            first = (image * heights[i] + top) * widths[i] + left
            value = tl.zeros((PIXELS, BLOCK_C), tl.float32)
            for y in tl.static_range(2):
                for x in tl.static_range(2):
                    weight = (down if y else 1 - down) * (right if x else 1 - right)
                    places = (first + y * widths[i] + x).to(tl.int64)[:, None] * channels[i] + c
                    read = there & (weight > 0)[:, None]
                    value += weight[:, None] * tl.load(maps[i] + places, read, 0).to(tl.float32)
            places = pixel.to(tl.int64)[:, None] * total + start + c
            if addend is not None:
                value += tl.load(addend + places, there, 0).to(tl.float32)
            tl.store(out + places, value, there)
        block -= blocks
        start += channels[i]


@triton.jit
def _resize_backward_kernel(
    grad: tl.tensor,
    grads: 'tuple[tl.tensor, ...]',
    heights: 'tuple[tl.tensor, ...]',
    widths: 'tuple[tl.tensor, ...]',
    channels: 'tuple[tl.tensor, ...]',
    starts: 'tuple[tl.tensor, ...]',
    images: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    total: tl.tensor,
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    pixel = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    for i in tl.static_range(len(grads)):
        pixels = images * heights[i] * widths[i]
        if (pixel >= 0) & (pixel < pixels):
            image, row, column = pixel_of(pixel, heights[i], widths[i])
            top, rows = _readers(row, heights[i], height)
            left, columns = _readers(column, widths[i], width)
            value = tl.zeros((PIXELS, BLOCK_C), tl.float32)
            for first in range(0, rows * columns, PIXELS):
                tap = first + tl.arange(0, PIXELS)
                y, x = top + tap // columns, left + tap % columns
                weight = _weight(y, row, heights[i], height)
                weight *= _weight(x, column, widths[i], width)
                read = ((tap < rows * columns) & (weight > 0))[:, None] & (c < channels[i])
                places = ((image * height + y) * width + x).to(tl.int64)[:, None] * total
                given = tl.load(grad + places + starts[i] + c, read, 0).to(tl.float32)
                value += weight[:, None] * given
            place = grads[i] + pixel.to(tl.int64) * channels[i] + c
            tl.store(place, tl.sum(value, 0), c < channels[i])
        pixel -= pixels


@torch.library.custom_op('mtp::resize_maps', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin(torch.channels_last)
def resize_maps(maps: Sequence[Tensor], height: int, width: int, addend: Tensor | None) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.resize_maps` on checked tensors."""
    out = _fake(maps, height, width, addend)
    channels, heights, widths = zip(*(x.shape[1:] for x in maps))
    grid = (
        triton.cdiv(len(out) * height * width, TILE['PIXELS']),
        sum(triton.cdiv(number, TILE['BLOCK_C']) for number in channels),
    )
    operands = [None if x is None else channels_last(x) for x in (*maps, addend)]
    with torch.cuda.device_of(out):  # Triton launches on the current device
        _resize_kernel[grid](
            tuple(operands[:-1]),
            operands[-1],
            out,
            heights,
            widths,
            channels,
            len(out),
            height,
            width,
            out.shape[1],
            **TILE,
        )
    return out


@resize_maps.register_fake
def _fake(maps: Sequence[Tensor], height: int, width: int, addend: Tensor | None) -> Tensor:
    dtypes = [x.dtype for x in (*maps, addend) if x is not None]
    shape = len(maps[0]), sum(x.shape[1] for x in maps), height, width
    return empty_channels_last(maps[0], shape, reduce(torch.promote_types, dtypes))


@torch.library.custom_op('mtp::resize_maps_backward', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin(torch.channels_last)
def resize_maps_backward(
    grad: Tensor,
    starts: Sequence[int],
    channels: Sequence[int],
    heights: Sequence[int],
    widths: Sequence[int],
) -> list[Tensor]:
    """Return the gradients ``(B, C, h, w)`` of some maps, channels-last.

    Args:
        grad: gradient of the result.
        starts: channel of the result that is a map's first.
        channels, heights, widths: sizes of the maps.
    """
    grad = channels_last(grad)
    grads = _backward_fake(grad, starts, channels, heights, widths)
    images, total, height, width = grad.shape
    grid = (
        images * sum(h * w for h, w in zip(heights, widths)),
        triton.cdiv(max(channels), TILE['BLOCK_C']),
    )
    with torch.cuda.device_of(grad):
        _resize_backward_kernel[grid](
            grad,
            tuple(grads),
            tuple(heights),
            tuple(widths),
            tuple(channels),
            tuple(starts),
            images,
            height,
            width,
            total,
            **TILE,
        )
    return grads


@resize_maps_backward.register_fake
def _backward_fake(
    grad: Tensor,
    starts: Sequence[int],
    channels: Sequence[int],
    heights: Sequence[int],
    widths: Sequence[int],
) -> list[Tensor]:
    return [
        empty_channels_last(grad, (len(grad), *shape), grad.dtype)
        for shape in zip(channels, heights, widths)
    ]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    maps, _, _, addend = inputs
    ctx.shapes = [x.shape[1:] for x in maps]
    ctx.adds = addend is not None


def _gradients(ctx: Any, grad: Tensor) -> tuple[list[Tensor] | Tensor | None, ...]:
    channels = [shape[0] for shape in ctx.shapes]
    grads = [*grad.split(channels, 1)]
    resized = [i for i, shape in enumerate(ctx.shapes) if shape[1:] != grad.shape[2:]]
    if resized:
        starts = [sum(channels[:i]) for i in resized]
        sizes = zip(*(ctx.shapes[i] for i in resized))
        for i, of_map in zip(resized, resize_maps_backward(grad, starts, *map(list, sizes))):
            grads[i] = of_map
    return grads, None, None, grad if ctx.adds else None


resize_maps.register_autograd(_gradients, setup_context=_save)


def compile_cases() -> Iterator[CompileCase]:
    """Yield a pyramid of three maps in each dtype, and a sum."""
    for dtype, adds in (
        (torch.float32, False),
        (torch.bfloat16, False),
        (torch.bfloat16, True),
        (torch.float16, False),
    ):
        yield _case(_resize_kernel, dtype, TILE | ({} if adds else {'addend': None}))
        yield _case(_resize_backward_kernel, dtype, TILE)


def _case(kernel: Any, dtype: torch.dtype, constants: dict[str, Any]) -> CompileCase:
    pointer = f'*{TRITON_NAMES[dtype]}'
    types: dict[str, str | tuple[str, ...]] = {
        **dict.fromkeys(('addend', 'out', 'grad'), pointer),
        **dict.fromkeys(('maps', 'grads'), 3 * (pointer,)),
        **dict.fromkeys(('heights', 'widths', 'channels', 'starts'), 3 * ('i32',)),
        **dict.fromkeys(('images', 'height', 'width', 'total'), 'i32'),
        **dict.fromkeys(constants, 'constexpr'),
    }
    return CompileCase(kernel, {name: types[name] for name in kernel.arg_names}, constants)
