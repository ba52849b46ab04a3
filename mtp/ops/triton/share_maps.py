"""Biases of several maps in one launch; sums of their gradients, and of the biases', in two.

Maps are channels-last, so that a pixel's channels are read and written in rows. Forward, a program
adds the bias to a tile of pixels and channels of one map. Backward, a program adds the gradients of
a chunk of one map's pixels, for a block of channels, and sums the results over the chunk; a second
launch adds up the chunks, as for :mod:`mtp.ops.triton.column_sums`. A gradient may be a part of a
larger tensor if its channels are dense, and that of a subsampled map is read where a pixel has one.
Nothing is added to memory by two programs, so that results are the same bits in every run.

Memory traffic: forward each map is read and written, once; backward each gradient is read, and each
sum written, once.
"""

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import DTYPES, else_twin
from mtp.ops.triton.column_sums import BLOCK_C, ROWS, add_chunks, blocks, chunking
from mtp.ops.triton.common import (
    TRITON_NAMES,
    CompileCase,
    channels_last,
    empty_channels_last,
    pixel_of,
)
from mtp.ops.triton.resize_maps import TILE


@triton.jit
def _biases_kernel(
    maps: 'tuple[tl.tensor, ...]',
    biases: 'tuple[tl.tensor, ...]',
    results: 'tuple[tl.tensor, ...]',
    pixels: 'tuple[tl.tensor, ...]',
    channels: 'tuple[tl.tensor, ...]',
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    tile = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    for i in tl.static_range(len(maps)):
        tiles = tl.cdiv(pixels[i], PIXELS)
        if (tile >= 0) & (tile < tiles):
            pixel = tile * PIXELS + tl.arange(0, PIXELS)
            there = (pixel < pixels[i])[:, None] & (c < channels[i])[None, :]
            places = pixel.to(tl.int64)[:, None] * channels[i] + c[None, :]
            value = tl.load(maps[i] + places, there, 0).to(tl.float32)
            value += tl.load(biases[i] + c, c < channels[i], 0).to(tl.float32)[None, :]
            tl.store(results[i] + places, value, there)
        tile -= tiles


@triton.jit
def _sums_backward_kernel(
    grads: 'tuple[tl.tensor, ...]',
    sums: 'tuple[tl.tensor, ...]',
    parts: 'tl.tensor | None',
    image_strides: 'tuple[tl.tensor, ...]',
    row_strides: 'tuple[tl.tensor, ...]',
    column_strides: 'tuple[tl.tensor, ...]',
    steps: 'tuple[tl.tensor, ...]',
    heights: 'tuple[tl.tensor, ...]',
    widths: 'tuple[tl.tensor, ...]',
    channels: 'tuple[tl.tensor, ...]',
    images: tl.tensor,
    share: tl.tensor,
    total: tl.tensor,
    OWNERS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    block, chunk = tl.program_id(0), tl.program_id(1)
    if parts is not None:
        parts += chunk.to(tl.int64) * total
    for i in tl.static_range(len(sums)):
        pixels = images * heights[i] * widths[i]
        if (block >= 0) & (block * BLOCK_C < channels[i]) & (chunk * share < pixels):
            c = block * BLOCK_C + tl.arange(0, BLOCK_C)
            end = tl.minimum((chunk + 1) * share, pixels)
            of_chunk = tl.zeros((ROWS, BLOCK_C), tl.float32)
            for first in range(chunk * share, end, ROWS):
                pixel = first + tl.arange(0, ROWS)
                there = (pixel < end)[:, None] & (c < channels[i])[None, :]
                image, row, column = pixel_of(pixel, heights[i], widths[i])
                value = tl.zeros((ROWS, BLOCK_C), tl.float32)
                for j in tl.static_range(len(grads)):
                    if OWNERS[j] == i:
                        places = (
                            image.to(tl.int64) * image_strides[j]
                            + row // steps[j] * row_strides[j]
                            + column // steps[j] * column_strides[j]
                        )
                        given = (row % steps[j] == 0) & (column % steps[j] == 0)
                        read = there & given[:, None]
                        value += tl.load(grads[j] + places[:, None] + c, read, 0).to(tl.float32)
                tl.store(sums[i] + pixel.to(tl.int64)[:, None] * channels[i] + c, value, there)
                of_chunk += value
            if parts is not None:
                tl.store(parts + c, tl.sum(of_chunk, 0), c < channels[i])
        block -= tl.cdiv(channels[i], BLOCK_C)
        if parts is not None:
            parts += channels[i]


@torch.library.custom_op('mtp::share_maps', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin(torch.channels_last)
def share_maps(maps: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Launch the kernel that adds a bias to each map."""
    results = _fake(maps, biases)
    pixels = tuple(x.numel() // x.shape[1] for x in maps)
    channels = tuple(x.shape[1] for x in maps)
    grid = (
        sum(triton.cdiv(number, TILE['PIXELS']) for number in pixels),
        triton.cdiv(max(channels), TILE['BLOCK_C']),
    )
    with torch.cuda.device_of(results[0]):  # Triton launches on the current device
        _biases_kernel[grid](
            tuple(map(channels_last, maps)), tuple(biases), tuple(results), pixels, channels, **TILE
        )
    return results


@share_maps.register_fake
def _fake(maps: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    return [empty_channels_last(x, x.shape, x.dtype) for x in maps]


@torch.library.custom_op('mtp::share_maps_backward', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin(torch.preserve_format)
def share_maps_backward(
    grads: Sequence[Tensor],
    owners: Sequence[int],
    steps: Sequence[int],
    sizes: Sequence[int],
    rounded: Sequence[bool],
    with_biases: bool,
) -> list[Tensor]:
    """Launch the kernels of :func:`mtp.ops.share_maps.share_maps_backward_torch`."""
    results = _backward_fake(grads, owners, steps, sizes, rounded, with_biases)
    images, heights, widths = len(grads[0]), tuple(sizes[::2]), tuple(sizes[1::2])
    sums, sums_of_biases = results[: len(rounded)], results[len(rounded) :]
    channels = tuple(x.shape[1] for x in sums)
    pixels = [images * height * width for height, width in zip(heights, widths)]
    share, chunks = chunking(pixels)
    parts = None
    if with_biases:
        parts = grads[0].new_empty(chunks, sum(channels), dtype=torch.float32)
    grads = [x if x.stride(1) == 1 else channels_last(x) for x in grads]
    image_strides, _, row_strides, column_strides = zip(*(x.stride() for x in grads))
    with torch.cuda.device_of(grads[0]):
        _sums_backward_kernel[(blocks(channels, BLOCK_C), chunks)](
            tuple(grads),
            tuple(sums),
            parts,
            image_strides,
            row_strides,
            column_strides,
            tuple(steps),
            heights,
            widths,
            channels,
            images,
            share,
            sum(channels),
            OWNERS=tuple(owners),
            ROWS=ROWS,
            BLOCK_C=BLOCK_C,
        )
    if parts is not None:
        add_chunks(parts, sums_of_biases, pixels, share)
    return results


@share_maps_backward.register_fake
def _backward_fake(
    grads: Sequence[Tensor],
    owners: Sequence[int],
    steps: Sequence[int],
    sizes: Sequence[int],
    rounded: Sequence[bool],
    with_biases: bool,
) -> list[Tensor]:
    firsts = [grads[owners.index(i)] for i in range(len(rounded))]
    sums = [
        empty_channels_last(x, (*x.shape[:2], *size), x.dtype if narrow else torch.float32)
        for x, size, narrow in zip(firsts, zip(sizes[::2], sizes[1::2]), rounded)
    ]
    return sums + with_biases * [x.new_empty(x.shape[1]) for x in firsts]


def compile_cases() -> Iterator[CompileCase]:
    """Yield both kernels for two maps, of which the second is also subsampled, in each dtype."""
    for dtype in DTYPES:
        pointer = f'*{TRITON_NAMES[dtype]}'
        types: dict[str, str | tuple[str, ...]] = {
            **dict.fromkeys(('maps', 'biases', 'results', 'sums'), 2 * (pointer,)),
            **dict.fromkeys(('pixels', 'heights', 'widths', 'channels'), 2 * ('i32',)),
            'grads': 5 * (pointer,),
            **dict.fromkeys(
                ('image_strides', 'row_strides', 'column_strides', 'steps'), 5 * ('i32',)
            ),
            'parts': '*fp32',
            **dict.fromkeys(('images', 'share', 'total'), 'i32'),
            **dict.fromkeys(('OWNERS', 'ROWS', 'PIXELS', 'BLOCK_C'), 'constexpr'),
        }
        tiles = {'OWNERS': (0, 0, 1, 1, 1), 'ROWS': ROWS, 'BLOCK_C': BLOCK_C}
        for kernel, constants in ((_biases_kernel, TILE), (_sums_backward_kernel, tiles)):
            signature = {name: types[name] for name in kernel.arg_names}
            yield CompileCase(kernel, signature, constants)
