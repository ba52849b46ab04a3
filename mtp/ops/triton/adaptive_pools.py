"""Averages of a map over grids of several sizes: one launch in each direction.

Forward, a program averages the pixels of one bin of one grid, some at a time. Backward, it makes a
tile of the map's gradient from the bins that hold its pixels, at most two on each axis and grid.
Nothing is added to memory, so that results are the same bits in every run.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import DTYPES, else_twin
from mtp.ops.triton.common import (
    TRITON_NAMES,
    CompileCase,
    channels_last,
    empty_channels_last,
    pixel_of,
)
from mtp.ops.triton.resize_maps import TILE


@triton.jit
def _bounds(i: tl.tensor, bins: tl.tensor, side: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return the first pixel of bin ``i`` and the first after it."""
    return i * side // bins, tl.cdiv((i + 1) * side, bins)


@triton.jit
def _share(i: tl.tensor, pixel: tl.tensor, bins: tl.tensor, side: tl.tensor) -> tl.tensor:
    """Return the share of a pixel in bin ``i``: 0 where it is not in it."""
    first, end = _bounds(i, bins, side)
    return tl.where((i < bins) & (first <= pixel), 1.0 / (end - first), 0)


@triton.jit
def _pools_kernel(
    x: tl.tensor,
    pools: 'tuple[tl.tensor, ...]',
    sides: 'tuple[tl.tensor, ...]',
    images: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    place = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    for i in tl.static_range(len(pools)):
        bins = images * sides[i] * sides[i]
        if (place >= 0) & (place < bins):
            image, row, column = pixel_of(place, sides[i], sides[i])
            top, bottom = _bounds(row, sides[i], height)
            left, right = _bounds(column, sides[i], width)
            columns = right - left
            number = (bottom - top) * columns
            value = tl.zeros((PIXELS, BLOCK_C), tl.float32)
            for first in range(0, number, PIXELS):
                pixel = first + tl.arange(0, PIXELS)
                y, x_ = top + pixel // columns, left + pixel % columns
                places = ((image * height + y) * width + x_).to(tl.int64)[:, None] * channels + c
                read = (pixel < number)[:, None] & (c < channels)
                value += tl.load(x + places, read, 0).to(tl.float32)
            mean = tl.sum(value, 0) / number
            tl.store(pools[i] + place.to(tl.int64) * channels + c, mean, c < channels)
        place -= bins


@triton.jit
def _pools_backward_kernel(
    grads: 'tuple[tl.tensor, ...]',
    grad_x: tl.tensor,
    sides: 'tuple[tl.tensor, ...]',
    images: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image, row, column = pixel_of(pixel, height, width)
    there = (pixel < images * height * width)[:, None] & (c < channels)
    value = tl.zeros((PIXELS, BLOCK_C), tl.float32)
    for i in tl.static_range(len(grads)):
        top, left = row * sides[i] // height, column * sides[i] // width
        for y in tl.static_range(2):
            for x in tl.static_range(2):
                share = _share(top + y, row, sides[i], height)
                share *= _share(left + x, column, sides[i], width)
                place = (image * sides[i] + top + y) * sides[i] + left + x
                places = place.to(tl.int64)[:, None] * channels + c
                read = there & (share > 0)[:, None]
                value += share[:, None] * tl.load(grads[i] + places, read, 0).to(tl.float32)
    tl.store(grad_x + pixel.to(tl.int64)[:, None] * channels + c, value, there)


@torch.library.custom_op('mtp::adaptive_pools', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin(torch.channels_last)
def adaptive_pools(x: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Launch the kernel of :func:`mtp.ops.adaptive_pools` on a checked map."""
    pools = _fake(x, sides)
    images, channels, height, width = x.shape
    grid = images * sum(side * side for side in sides), triton.cdiv(channels, TILE['BLOCK_C'])
    sizes = images, height, width, channels
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _pools_kernel[grid](channels_last(x), tuple(pools), tuple(sides), *sizes, **TILE)
    return pools


@adaptive_pools.register_fake
def _fake(x: Tensor, sides: Sequence[int]) -> list[Tensor]:
    return [empty_channels_last(x, (*x.shape[:2], side, side), x.dtype) for side in sides]


@torch.library.custom_op(
    'mtp::adaptive_pools_backward', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin(torch.channels_last)
def adaptive_pools_backward(grads: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return the gradient of the map, ``(B, C, height, width)``, channels-last."""
    grad_x = _backward_fake(grads, height, width)
    images, channels = grad_x.shape[:2]
    grid = (
        triton.cdiv(images * height * width, TILE['PIXELS']),
        triton.cdiv(channels, TILE['BLOCK_C']),
    )
    sides = tuple(grad.shape[2] for grad in grads)
    sizes = images, height, width, channels
    with torch.cuda.device_of(grad_x):
        _pools_backward_kernel[grid](
            tuple(map(channels_last, grads)), grad_x, sides, *sizes, **TILE
        )
    return grad_x


@adaptive_pools_backward.register_fake
def _backward_fake(grads: Sequence[Tensor], height: int, width: int) -> Tensor:
    first = grads[0]
    return empty_channels_last(first, (*first.shape[:2], height, width), first.dtype)


def _save(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    ctx.size = inputs[0].shape[2:]


def _gradients(ctx: Any, grads: list[Tensor]) -> tuple[Tensor, None]:
    return adaptive_pools_backward(grads, *ctx.size), None


adaptive_pools.register_autograd(_gradients, setup_context=_save)


def compile_cases() -> Iterator[CompileCase]:
    """Yield both kernels for three grids in each dtype."""
    for dtype in DTYPES:
        for kernel in (_pools_kernel, _pools_backward_kernel):
            pointer = f'*{TRITON_NAMES[dtype]}'
            types: dict[str, str | tuple[str, ...]] = {
                **dict.fromkeys(('x', 'grad_x'), pointer),
                **dict.fromkeys(('pools', 'grads'), 3 * (pointer,)),
                'sides': 3 * ('i32',),
                **dict.fromkeys(('images', 'height', 'width', 'channels'), 'i32'),
                **dict.fromkeys(TILE, 'constexpr'),
            }
            yield CompileCase(kernel, {name: types[name] for name in kernel.arg_names}, TILE)
