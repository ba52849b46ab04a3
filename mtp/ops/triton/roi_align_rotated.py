"""RoIAlign of rotated RoIs, forward and backward, each in one pass over the RoIs.

The kernels also take horizontal RoIs, and RoIs of several levels
(:mod:`mtp.ops.triton.roi_align_levels`).

A program takes a tile of bins x channels of one RoI. Feature maps are read channels-last, 16 bytes
wide: copying maps of another layout costs less than reading single channels of scattered pixels.
The gradient is accumulated in float32, channels-last too.

Memory traffic for 2000 RoIs of 7 x 7 bins x 256 channels on a feature map of 2 x 128 x 128 pixels
in float32: 100 MB of output and 34 MB of features (67 more to copy NCHW maps to channels-last); the
same in the backward pass, and once more the gradient of the features, which is cleared first. With
two samples per bin and axis, 1.6 GB are read from the cache, or added to it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import MAX_ADAPTIVE_SAMPLES, else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase, channels_last

MOST_SAMPLES = tl.constexpr(float(MAX_ADAPTIVE_SAMPLES))
TILE = {'BLOCK_P': 32, 'BLOCK_C': 64}  # bins and channels per program
WARPS = 4


@triton.jit
def _region(
    maps: 'tuple[tl.tensor, ...]',
    sizes: 'tuple[tl.tensor, ...]',
    scales: 'tuple[tl.tensor, ...]',
    rois: tl.tensor,
    levels: 'tl.tensor | None',
    images: tl.tensor,
    channels: tl.tensor,
    bins_y: tl.tensor,
    bins_x: tl.tensor,
    shift: tl.tensor,
    smallest: tl.tensor,
    turn: tl.tensor,
    samples: tl.tensor,
    ROTATED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Return the RoI of this program, its feature map, its channels and bins, the number of samples
    of a bin, 0 for an invalid RoI, and what :func:`_sample` needs of the RoI."""
    program = tl.program_id(0)
    tiles = tl.cdiv(channels, BLOCK_C)
    c = program % tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    program = program // tiles
    tiles = tl.cdiv(bins_y * bins_x, BLOCK_P)
    bin = program % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    roi = (program // tiles).to(tl.int64)
    rois += roi * (6 if ROTATED else 5)
    known = True
    feature_map, height, width, scale = maps[0], sizes[0], sizes[1], scales[0]
    if levels is not None:
        level = tl.load(levels + roi)
        known = (level >= 0) & (level < len(maps))
        for other in tl.static_range(1, len(maps)):
            feature_map = tl.where(level == other, maps[other], feature_map)
            height = tl.where(level == other, sizes[2 * other], height)
            width = tl.where(level == other, sizes[2 * other + 1], width)
            scale = tl.where(level == other, scales[other], scale)
    image = tl.load(rois).to(tl.float32)
    first_x = tl.load(rois + 1).to(tl.float32) * scale
    first_y = tl.load(rois + 2).to(tl.float32) * scale
    second_x = tl.load(rois + 3).to(tl.float32) * scale
    second_y = tl.load(rois + 4).to(tl.float32) * scale
    if ROTATED:
        centre_x, centre_y, size_x, size_y = first_x - shift, first_y - shift, second_x, second_y
        angle = tl.load(rois + 5).to(tl.float32)
    else:
        centre_x, centre_y = (first_x + second_x) / 2 - shift, (first_y + second_y) / 2 - shift
        size_x, size_y = second_x - first_x, second_y - first_y
        angle = 0 * size_x
    # Infinite or NaN if one of them is NaN, or if the positions of samples would not be finite.
    extent = tl.abs(centre_x) + tl.abs(centre_y) + tl.abs(size_x) + tl.abs(size_y) + tl.abs(angle)
    present = (extent < float('inf')) & (image >= 0) & (image < images) & known
    size_x, size_y = tl.maximum(size_x, smallest), tl.maximum(size_y, smallest)
    if samples > 0:
        ratio_y, ratio_x = samples, samples
    else:
        ratio_y = tl.clamp(tl.ceil(size_y / bins_y), 0.0, MOST_SAMPLES).to(tl.int32)
        ratio_x = tl.clamp(tl.ceil(size_x / bins_x), 0.0, MOST_SAMPLES).to(tl.int32)
    ratio_y, ratio_x = tl.where(present, ratio_y, 0), tl.where(present, ratio_x, 0)
    image = tl.where(present, image, 0).to(tl.int64)
    angle = tl.where(present, angle, 0) * turn
    feature_map += image * height * width * channels
    cos, sin = tl.cos(angle), tl.sin(angle)
    region = height, width, centre_x, centre_y, size_x, size_y, cos, sin, ratio_y, ratio_x
    return roi, feature_map, c, bin, ratio_y * ratio_x, region


@triton.jit
def _sample(
    sample: tl.tensor,
    bin: tl.tensor,
    region: 'tuple[tl.tensor, ...]',
    bins_y: tl.tensor,
    bins_x: tl.tensor,
    channels: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Locate this sample of each bin: offset of the pixel above and left of it, steps from there to
    the pixels right and below, distances along x and y, and whether it is inside the feature map.

    All threads of a row of channels compute this: divisions are by what is the same for all
    samples, and one offset has 64 bits.
    """
    height, width, centre_x, centre_y, size_x, size_y, cos, sin, ratio_y, ratio_x = region
    column = bin % bins_x * ratio_x + sample % ratio_x
    row = bin // bins_x * ratio_y + sample // ratio_x
    u = (column + 0.5) * (size_x / (bins_x * ratio_x)) - 0.5 * size_x
    v = (row + 0.5) * (size_y / (bins_y * ratio_y)) - 0.5 * size_y
    x, y = u * cos + v * sin + centre_x, v * cos - u * sin + centre_y
    inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height) & (bin < bins_y * bins_x)
    x = tl.clamp(x, 0.0, (width - 1).to(tl.float32))
    y = tl.clamp(y, 0.0, (height - 1).to(tl.float32))
    left, top = x.to(tl.int32), y.to(tl.int32)
    place = (top * width + left).to(tl.int64) * channels
    right = tl.where(left < width - 1, channels, 0)
    below = tl.where(top < height - 1, width * channels, 0)
    return place, right, below, x - left, y - top, inside


@triton.jit
def _forward_kernel(
    features: 'tuple[tl.tensor, ...]',
    sizes: 'tuple[tl.tensor, ...]',
    scales: 'tuple[tl.tensor, ...]',
    rois: tl.tensor,
    levels: 'tl.tensor | None',
    output: tl.tensor,
    images: tl.tensor,
    channels: tl.tensor,
    bins_y: tl.tensor,
    bins_x: tl.tensor,
    shift: tl.tensor,
    smallest: tl.tensor,
    turn: tl.tensor,
    samples: tl.tensor,
    ROTATED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    roi, feature_map, c, bin, number, region = _region(
        features,
        sizes,
        scales,
        rois,
        levels,
        images,
        channels,
        bins_y,
        bins_x,
        shift,
        smallest,
        turn,
        samples,
        ROTATED,
        BLOCK_P,
        BLOCK_C,
    )
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for sample in range(number):
        place, right, below, along_x, along_y, inside = _sample(
            sample, bin, region, bins_y, bins_x, channels
        )
        filled = inside[:, None] & (c < channels)[None, :]
        for corner in tl.static_range(4):
            weight_x = along_x if corner % 2 else 1 - along_x
            weight_y = along_y if corner // 2 else 1 - along_y
            pixel = place + right * (corner % 2) + below * (corner // 2)
            value = tl.load(feature_map + pixel[:, None] + c[None, :], filled, other=0)
            total += (weight_x * weight_y)[:, None] * value.to(tl.float32)
    total /= tl.maximum(number, 1)
    bins = bins_y * bins_x
    places = (roi * channels + c[None, :]) * bins + bin[:, None]
    tl.store(output + places, total, (bin < bins)[:, None] & (c < channels)[None, :])


@triton.jit
def _backward_kernel(
    grad_features: 'tuple[tl.tensor, ...]',
    sizes: 'tuple[tl.tensor, ...]',
    scales: 'tuple[tl.tensor, ...]',
    rois: tl.tensor,
    levels: 'tl.tensor | None',
    grad_output: tl.tensor,
    images: tl.tensor,
    channels: tl.tensor,
    bins_y: tl.tensor,
    bins_x: tl.tensor,
    shift: tl.tensor,
    smallest: tl.tensor,
    turn: tl.tensor,
    samples: tl.tensor,
    ROTATED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    roi, feature_map, c, bin, number, region = _region(
        grad_features,
        sizes,
        scales,
        rois,
        levels,
        images,
        channels,
        bins_y,
        bins_x,
        shift,
        smallest,
        turn,
        samples,
        ROTATED,
        BLOCK_P,
        BLOCK_C,
    )
    bins = bins_y * bins_x
    places = (roi * channels + c[None, :]) * bins + bin[:, None]
    grad = tl.load(grad_output + places, (bin < bins)[:, None] & (c < channels)[None, :], other=0)
    grad = grad.to(tl.float32) / tl.maximum(number, 1)
    for sample in range(number):
        place, right, below, along_x, along_y, inside = _sample(
            sample, bin, region, bins_y, bins_x, channels
        )
        filled = inside[:, None] & (c < channels)[None, :]
        for corner in tl.static_range(4):
            weight_x = along_x if corner % 2 else 1 - along_x
            weight_y = along_y if corner // 2 else 1 - along_y
            pixel = place + right * (corner % 2) + below * (corner // 2)
            tl.atomic_add(
                feature_map + pixel[:, None] + c[None, :],
                (weight_x * weight_y)[:, None] * grad,
                filled,
                sem='relaxed',
            )


@torch.library.custom_op('mtp::roi_align_rotated', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin()
def roi_align_rotated(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.roi_align_rotated` on checked tensors."""
    output = _fake(features, rois, height, width)
    if not len(features):
        return output.zero_()
    launch_forward(
        [features], rois, None, output, [spatial_scale], sampling_ratio, aligned, clockwise
    )
    return output


@roi_align_rotated.register_fake
def _fake(features: Tensor, rois: Tensor, height: int, width: int, *_: Any) -> Tensor:
    return features.new_empty(len(rois), features.shape[1], height, width)


@torch.library.custom_op(
    'mtp::roi_align_rotated_backward', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin(atomics=True)
def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    shape: list[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    """Return the contiguous gradient of feature maps of ``shape`` (B, C, H, W)."""
    grad = launch_backward(
        grad_output, rois, None, [shape], [spatial_scale], sampling_ratio, aligned, clockwise
    )
    (grad_features,) = cut(grad, [shape])
    return grad_features.to(grad_output.dtype, memory_format=torch.contiguous_format)


@roi_align_rotated_backward.register_fake
def _backward_fake(grad_output: Tensor, rois: Tensor, shape: list[int], *_: Any) -> Tensor:
    return grad_output.new_empty(shape)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    features, rois, _, _, *ctx.settings = inputs
    ctx.save_for_backward(rois)
    ctx.shape = features.shape


def _gradients(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grad = roi_align_rotated_backward(grad_output, *ctx.saved_tensors, ctx.shape, *ctx.settings)
    return grad, *(None for _ in range(7))


roi_align_rotated.register_autograd(_gradients, setup_context=_save)


def launch_forward(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    output: Tensor,
    scales: Sequence[float],
    *settings: Any,
) -> None:
    """Fill ``output``; a RoI without a level gives 0. ``settings`` are the last of ``_launch``."""
    maps = [*map(channels_last, features)]
    shapes = [level.shape for level in features]
    _launch(_forward_kernel, maps, shapes, rois, levels, output, scales, *settings)


def launch_backward(
    grad_output: Tensor,
    rois: Tensor,
    levels: Tensor | None,
    shapes: Sequence[Sequence[int]],
    scales: Sequence[float],
    *settings: Any,
) -> Tensor:
    """Return the gradients of feature maps of these shapes as :func:`cut` takes them, float32."""
    number = sum(math.prod(shape) for shape in shapes)
    grad = torch.zeros(number, dtype=torch.float32, device=grad_output.device)
    maps = cut(grad, shapes)
    _launch(
        _backward_kernel, maps, shapes, rois, levels, grad_output.contiguous(), scales, *settings
    )
    return grad


def cut(values: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the channels-last maps ``(B, C, H, W)`` that lie one after the other in a tensor."""
    parts = values.split([math.prod(shape) for shape in shapes])
    return [
        part.view(batch, height, width, channels).permute(0, 3, 1, 2)
        for part, (batch, channels, height, width) in zip(parts, shapes)
    ]


def _launch(
    kernel: Any,
    maps: Sequence[Tensor],
    shapes: Sequence[Sequence[int]],
    rois: Tensor,
    levels: Tensor | None,
    pooled: Tensor,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    images, channels = shapes[0][:2]
    bins = pooled.shape[2:]
    programs = (
        len(rois)
        * triton.cdiv(bins[0] * bins[1], TILE['BLOCK_P'])
        * triton.cdiv(channels, TILE['BLOCK_C'])
    )
    if not programs or not images:
        return
    with torch.cuda.device_of(pooled):  # Triton launches on the current device
        kernel[(programs,)](
            tuple(maps),
            tuple(side for shape in shapes for side in shape[2:]),
            tuple(map(float, scales)),
            rois.contiguous(),
            levels if levels is None else levels.contiguous(),
            pooled,
            images,
            channels,
            *bins,
            0.5 if aligned else 0.0,
            float('-inf') if aligned else 1.0,
            -1.0 if clockwise else 1.0,
            sampling_ratio,
            ROTATED=rois.shape[1] == 6,
            **TILE,
            num_warps=WARPS,
        )


def compile_cases() -> Iterator[CompileCase]:
    """Yield every case that :func:`_launch` can pick for RoIs of one level."""
    yield from cases(1, {'ROTATED': True, 'levels': None})


def cases(number: int, constants: dict) -> Iterator[CompileCase]:
    """Yield the kernels for a number of levels with these constants, for all dtypes."""
    constants = constants | TILE
    for kernel in (_forward_kernel, _backward_kernel):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            pointer = f'*{TRITON_NAMES[dtype]}'
            types: dict[str, str | tuple[str, ...]] = {
                'features': (pointer,) * number,
                'grad_features': ('*fp32',) * number,
                'sizes': ('i32',) * (2 * number),
                'scales': ('fp32',) * number,
                'rois': '*fp32',
                'levels': '*i64',
                **dict.fromkeys(('output', 'grad_output'), pointer),
                **dict.fromkeys(('shift', 'smallest', 'turn'), 'fp32'),
                **dict.fromkeys(constants, 'constexpr'),
            }
            yield CompileCase(
                kernel,
                {name: types.get(name, 'i32') for name in kernel.arg_names},
                constants,
                WARPS,
            )
