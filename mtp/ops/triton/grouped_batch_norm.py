"""Batch normalisation of groups of images: three launches for all groups in each direction.

Forward: sums of each group, by many programs; statistics, from the sums of all programs; the
normalised maps. Backward: sums, likewise by many programs; gradients of weight and bias from them;
the gradient of the maps. Nothing is added to memory by two programs, so that results are the same
bits in every run. A ReLU costs no launch: the backward pass finds again where it cut off.

Groups of few rows take one launch in each direction: a program holds all rows of some channels in
registers, group after group.

Maps are matrices of pixels, the rows, and channels; a group's rows are consecutive. Channels-last
and contiguous maps are both taken as they are, with tiles of another shape.

Sums are safe where the mean is far from zero: a program computes mean and squared deviation by
Welford's method, and hands on the sums of values and squares in float64, which lose no digits. One
that holds all rows sums the squared distances from their mean.

Memory traffic of an element in bfloat16: forward 6 bytes (read for the sums, read, written),
backward 10 (gradient and map read for the sums, both read, gradient written).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import BATCH_NORM_FEW_ROWS, BATCH_NORM_SPLITS, else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase

SPLITS = BATCH_NORM_SPLITS
FINISH_C = 16  # channels of a program that adds up what other programs have summed
# tile of a program that holds all rows of a group
FEW = {'ROWS': BATCH_NORM_FEW_ROWS, 'BLOCK_C': 8}
FEW_WARPS = 8


@triton.jit
def _rows_of(group: tl.tensor, rows: 'tuple[tl.tensor, ...]') -> tuple[tl.tensor, tl.tensor]:
    """Return the first row of a group and the number of its rows."""
    first, number = 0, 0
    for i in tl.static_range(len(rows)):
        first += tl.where(i < group, rows[i], 0)
        number += tl.where(i == group, rows[i], 0)
    return first, number


@triton.jit
def _share(
    split: tl.tensor,
    group: tl.tensor,
    rows: 'tuple[tl.tensor, ...]',
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return where the rows of a program that sums begin and end."""
    first, number = _rows_of(group, rows)
    share = tl.cdiv(number, SPLITS * ROWS) * ROWS
    begin = tl.minimum(split * share, number)
    return first + begin, first + tl.minimum(begin + share, number)


@triton.jit
def _places(
    row: tl.tensor, c: tl.tensor, pixels: tl.tensor, channels: tl.tensor, LAST: tl.constexpr
) -> tl.tensor:
    """Return the places of channels ``c`` of some rows in the maps."""
    if LAST:
        return row.to(tl.int64)[:, None] * channels + c[None, :]
    image = (row // pixels).to(tl.int64)[:, None]
    return (image * channels + c[None, :]) * pixels + (row % pixels)[:, None]


@triton.jit
def _centred(
    x: tl.tensor,
    mean: tl.tensor,
    rows: 'tuple[tl.tensor, ...]',
    pixels: tl.tensor,
    channels: tl.tensor,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Return a program's tile of centred values, their places, which are there, the channels."""
    blocks = tl.cdiv(channels, BLOCK_C)
    tile, block, group = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    first, number = _rows_of(group, rows)
    row, c = tile * ROWS + tl.arange(0, ROWS), block * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (row < number)[:, None] & (c < channels)[None, :]
    places = _places(first + row, c, pixels, channels, LAST)
    centre = tl.load(mean + group * channels + c, c < channels, other=0)
    value = tl.load(x + places, there, other=0).to(tl.float32)
    return value - centre[None, :], places, there, c


@triton.jit
def _normalised(
    centred: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    inverse: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """Return normalised values before the ReLU, and the factor of each channel.

    ``inverse`` is 1 / deviation of each channel.
    """
    there = c < channels
    scale = inverse * tl.load(weight + c, there, other=0).to(tl.float32)
    offset = tl.load(bias + c, there, other=0).to(tl.float32)
    return centred * scale[None, :] + offset[None, :], scale


@triton.jit
def _sums_kernel(
    x: tl.tensor,
    sums: tl.tensor,
    rows: 'tuple[tl.tensor, ...]',
    pixels: tl.tensor,
    channels: tl.tensor,
    LAST: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    blocks = tl.cdiv(channels, BLOCK_C)
    split, block, group = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    begin, end = _share(split, group, rows, SPLITS, ROWS)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    lane = tl.arange(0, ROWS)
    mean = tl.zeros((ROWS, BLOCK_C), tl.float32)
    square = tl.zeros((ROWS, BLOCK_C), tl.float32)
    step = 0.0
    for first in range(begin, end, ROWS):
        row = first + lane
        there = (row < end)[:, None] & (c < channels)[None, :]
        value = tl.load(x + _places(row, c, pixels, channels, LAST), there, other=0).to(tl.float32)
        step += 1
        delta = tl.where(there, value - mean, 0)
        mean += delta * (1 / step)
        square += delta * (value - mean)
    number = tl.cdiv(tl.maximum(end - begin - lane, 0), ROWS).to(tl.float64)[:, None]
    mean = mean.to(tl.float64)
    total = tl.sum(number * mean, 0)
    squares = tl.sum(square.to(tl.float64) + number * mean * mean, 0)
    place = sums + (split * len(rows) + group) * (2 * channels + 1)
    tl.store(place + c, total, c < channels)
    tl.store(place + channels + c, squares, c < channels)
    tl.store(place + 2 * channels, (end - begin).to(tl.float64), block == 0)


@triton.jit
def _statistics_kernel(
    running_mean: tl.tensor,
    running_var: tl.tensor,
    num_batches_tracked: tl.tensor,
    sums: tl.tensor,
    mean: tl.tensor,
    invstd: tl.tensor,
    count: tl.tensor,
    splits: tl.tensor,
    groups: tl.tensor,
    channels: tl.tensor,
    momentum: tl.tensor,
    eps: tl.tensor,
    SPLITS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    split = tl.arange(0, SPLITS)
    there = (split < splits)[:, None] & (c < channels)[None, :]
    new_mean = tl.load(running_mean + c, c < channels, other=0).to(tl.float32)
    new_var = tl.load(running_var + c, c < channels, other=0).to(tl.float32)
    for group in range(groups):
        place = sums + (split * groups + group) * (2 * channels + 1)
        number = tl.sum(tl.load(place + 2 * channels, split < splits, other=0), 0)
        place = place[:, None] + c[None, :]
        centre = tl.sum(tl.load(place, there, other=0), 0) / number
        var = tl.sum(tl.load(place + channels, there, other=0), 0) / number - centre * centre
        var = tl.where(var < 0, 0, var)  # unlike a maximum, keeps NaN
        tl.store(mean + group * channels + c, centre, c < channels)
        tl.store(invstd + group * channels + c, 1 / tl.sqrt(var + eps), c < channels)
        tl.store(count + group, number, tl.program_id(0) == 0)
        new_mean += momentum * (centre.to(tl.float32) - new_mean)
        new_var += momentum * ((var * (number / (number - 1))).to(tl.float32) - new_var)
    tl.store(running_mean + c, new_mean, c < channels)
    tl.store(running_var + c, new_var, c < channels)
    if tl.program_id(0) == 0:
        tl.store(num_batches_tracked, tl.load(num_batches_tracked) + groups)


@triton.jit
def _normalise_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    mean: tl.tensor,
    invstd: tl.tensor,
    out: tl.tensor,
    rows: 'tuple[tl.tensor, ...]',
    pixels: tl.tensor,
    channels: tl.tensor,
    RELU: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    group = tl.program_id(1)
    centred, places, there, c = _centred(x, mean, rows, pixels, channels, LAST, ROWS, BLOCK_C)
    inverse = tl.load(invstd + group * channels + c, c < channels, other=0)
    value, _ = _normalised(centred, weight, bias, inverse, c, channels)
    if RELU:
        value = tl.where(value < 0, 0, value)
    tl.store(out + places, value, there)


@triton.jit
def _sums_backward_kernel(
    grad: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    mean: tl.tensor,
    invstd: tl.tensor,
    parts: tl.tensor,
    rows: 'tuple[tl.tensor, ...]',
    pixels: tl.tensor,
    channels: tl.tensor,
    RELU: tl.constexpr,
    LAST: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    blocks = tl.cdiv(channels, BLOCK_C)
    split, block, group = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    begin, end = _share(split, group, rows, SPLITS, ROWS)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    centre = tl.load(mean + group * channels + c, c < channels, other=0)
    inverse = tl.load(invstd + group * channels + c, c < channels, other=0)
    total = tl.zeros((ROWS, BLOCK_C), tl.float32)
    slope = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        there = (row < end)[:, None] & (c < channels)[None, :]
        places = _places(row, c, pixels, channels, LAST)
        centred = tl.load(x + places, there, other=0).to(tl.float32) - centre[None, :]
        given = tl.load(grad + places, there, other=0).to(tl.float32)
        if RELU:
            value, _ = _normalised(centred, weight, bias, inverse, c, channels)
            given = tl.where(value <= 0, 0, given)
        total += given
        slope += given * centred
    place = parts + (split * len(rows) + group) * 2 * channels + c
    tl.store(place, tl.sum(total, 0), c < channels)
    tl.store(place + channels, tl.sum(slope, 0), c < channels)


@triton.jit
def _weights_backward_kernel(
    parts: tl.tensor,
    invstd: tl.tensor,
    sums: tl.tensor,
    grad_weight: tl.tensor,
    grad_bias: tl.tensor,
    groups: tl.tensor,
    channels: tl.tensor,
    SPLITS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    of_weight = tl.zeros((BLOCK_C,), tl.float32)
    of_bias = tl.zeros((BLOCK_C,), tl.float32)
    for group in range(groups):
        place = (tl.arange(0, SPLITS) * groups + group)[:, None] * 2 * channels + c[None, :]
        total = tl.sum(tl.load(parts + place, there[None, :], other=0), 0)
        slope = tl.sum(tl.load(parts + place + channels, there[None, :], other=0), 0)
        tl.store(sums + group * 2 * channels + c, total, there)
        tl.store(sums + group * 2 * channels + channels + c, slope, there)
        of_weight += slope * tl.load(invstd + group * channels + c, there, other=0)
        of_bias += total
    tl.store(grad_weight + c, of_weight, there)
    tl.store(grad_bias + c, of_bias, there)


@triton.jit
def _normalise_backward_kernel(
    grad: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    mean: tl.tensor,
    invstd: tl.tensor,
    count: tl.tensor,
    sums: tl.tensor,
    grad_x: tl.tensor,
    rows: 'tuple[tl.tensor, ...]',
    pixels: tl.tensor,
    channels: tl.tensor,
    RELU: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    group = tl.program_id(1)
    centred, places, there, c = _centred(x, mean, rows, pixels, channels, LAST, ROWS, BLOCK_C)
    given = tl.load(grad + places, there, other=0).to(tl.float32)
    inverse = tl.load(invstd + group * channels + c, c < channels, other=0)
    value, scale = _normalised(centred, weight, bias, inverse, c, channels)
    if RELU:
        given = tl.where(value <= 0, 0, given)
    share = 1 / tl.load(count + group)
    place = sums + group * 2 * channels + c
    total = tl.load(place, c < channels, other=0) * share
    slope = tl.load(place + channels, c < channels, other=0) * share * inverse * inverse
    value = scale[None, :] * (given - total[None, :] - centred * slope[None, :])
    tl.store(grad_x + places, value, there)


@triton.jit
def _few_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    running_mean: tl.tensor,
    running_var: tl.tensor,
    num_batches_tracked: tl.tensor,
    out: tl.tensor,
    mean: tl.tensor,
    invstd: tl.tensor,
    rows: 'tuple[tl.tensor, ...]',
    pixels: tl.tensor,
    channels: tl.tensor,
    momentum: tl.tensor,
    eps: tl.tensor,
    RELU: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    row = tl.arange(0, ROWS)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    new_mean = tl.load(running_mean + c, c < channels, other=0).to(tl.float32)
    new_var = tl.load(running_var + c, c < channels, other=0).to(tl.float32)
    for group in range(len(rows)):
        first, number = _rows_of(group, rows)
        there = (row < number)[:, None] & (c < channels)[None, :]
        places = _places(first + row, c, pixels, channels, LAST)
        value = tl.load(x + places, there, other=0).to(tl.float32)
        centre = tl.sum(value, 0) / number
        # what that sum has rounded off
        centre += tl.sum(tl.where(there, value - centre[None, :], 0), 0) / number
        centred = tl.where(there, value - centre[None, :], 0)
        var = tl.sum(centred * centred, 0) / number
        inverse = 1 / tl.sqrt(var + eps)
        value, _ = _normalised(centred, weight, bias, inverse, c, channels)
        if RELU:
            value = tl.where(value < 0, 0, value)
        tl.store(out + places, value, there)
        tl.store(mean + group * channels + c, centre, c < channels)
        tl.store(invstd + group * channels + c, inverse, c < channels)
        new_mean += momentum * (centre - new_mean)
        new_var += momentum * (var * (number / (number - 1)) - new_var)
    tl.store(running_mean + c, new_mean, c < channels)
    tl.store(running_var + c, new_var, c < channels)
    if tl.program_id(0) == 0:
        tl.store(num_batches_tracked, tl.load(num_batches_tracked) + len(rows))


@triton.jit
def _few_backward_kernel(
    grad: tl.tensor,
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    mean: tl.tensor,
    invstd: tl.tensor,
    grad_x: tl.tensor,
    grad_weight: tl.tensor,
    grad_bias: tl.tensor,
    rows: 'tuple[tl.tensor, ...]',
    pixels: tl.tensor,
    channels: tl.tensor,
    RELU: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    row = tl.arange(0, ROWS)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    of_weight = tl.zeros((BLOCK_C,), tl.float32)
    of_bias = tl.zeros((BLOCK_C,), tl.float32)
    for group in range(len(rows)):
        first, number = _rows_of(group, rows)
        there = (row < number)[:, None] & (c < channels)[None, :]
        places = _places(first + row, c, pixels, channels, LAST)
        centre = tl.load(mean + group * channels + c, c < channels, other=0)
        inverse = tl.load(invstd + group * channels + c, c < channels, other=0)
        centred = tl.load(x + places, there, other=0).to(tl.float32) - centre[None, :]
        given = tl.load(grad + places, there, other=0).to(tl.float32)
        value, scale = _normalised(centred, weight, bias, inverse, c, channels)
        if RELU:
            given = tl.where(value <= 0, 0, given)
        total = tl.sum(given, 0)
        slope = tl.sum(given * centred, 0)
        of_weight += slope * inverse
        of_bias += total
        slope *= inverse * inverse
        value = given - (total[None, :] + centred * slope[None, :]) / number
        tl.store(grad_x + places, scale[None, :] * value, there)
    tl.store(grad_weight + c, of_weight, c < channels)
    tl.store(grad_bias + c, of_bias, c < channels)


@else_twin(part='grouped_batch_norm')
def batch_norm_sums(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.grouped_batch_norm.batch_norm_sums`."""
    sums = x.new_empty(SPLITS, len(sizes), 2 * x.shape[1] + 1, dtype=torch.float64)
    _launch(_sums_kernel, (x, sums), x, sizes, SPLITS=SPLITS)
    return sums


@else_twin(part='grouped_batch_norm')
def batch_norm_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    sums: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel of :func:`mtp.ops.grouped_batch_norm.batch_norm_statistics`."""
    (splits, groups, _), channels = sums.shape, len(running_mean)
    mean, invstd = (sums.new_empty(groups, channels, dtype=torch.float32) for _ in range(2))
    count = mean.new_empty(groups, 1)
    with torch.cuda.device_of(sums):  # Triton launches on the current device
        _statistics_kernel[(triton.cdiv(channels, FINISH_C),)](
            running_mean,
            running_var,
            num_batches_tracked,
            sums,
            mean,
            invstd,
            count,
            splits,
            groups,
            channels,
            float(momentum),
            float(eps),
            SPLITS=SPLITS,
            BLOCK_C=FINISH_C,
        )
    return mean, invstd, count


@else_twin(torch.preserve_format, part='grouped_batch_norm')
def batch_normalise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    _count: Tensor,
    sizes: Sequence[int],
    _synced: bool,
    relu: bool,
) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.grouped_batch_norm.batch_normalise`."""
    out = torch.empty_like(x)
    tensors = x, weight, bias, mean, invstd, out
    _launch(_normalise_kernel, tensors, x, sizes, RELU=relu)
    return out


@else_twin(part='grouped_batch_norm_backward')
def batch_normalise_backward_sums(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    sizes: Sequence[int],
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernels of :func:`mtp.ops.grouped_batch_norm.batch_normalise_backward_sums`."""
    groups, channels = mean.shape
    parts, sums = mean.new_empty(SPLITS, groups, 2 * channels), mean.new_empty(groups, 2 * channels)
    grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
    tensors = grad, x, weight, bias, mean, invstd, parts
    _launch(_sums_backward_kernel, tensors, x, sizes, RELU=relu, SPLITS=SPLITS)
    with torch.cuda.device_of(x):
        _weights_backward_kernel[(triton.cdiv(channels, FINISH_C),)](
            parts,
            invstd,
            sums,
            grad_weight,
            grad_bias,
            groups,
            channels,
            SPLITS=SPLITS,
            BLOCK_C=FINISH_C,
        )
    return sums, grad_weight, grad_bias


@else_twin(torch.preserve_format, part='grouped_batch_norm_backward')
def batch_normalise_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    count: Tensor,
    sums: Tensor,
    sizes: Sequence[int],
    relu: bool,
) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.grouped_batch_norm.batch_normalise_backward`."""
    grad_x = torch.empty_like(x)
    tensors = grad, x, weight, bias, mean, invstd, count, sums, grad_x
    _launch(_normalise_backward_kernel, tensors, x, sizes, RELU=relu)
    return grad_x


@else_twin(torch.preserve_format, part='grouped_batch_norm')
def batch_norm_of_few(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    sizes: Sequence[int],
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel of :func:`mtp.ops.grouped_batch_norm.batch_norm_of_few`."""
    out = torch.empty_like(x)
    mean, invstd = (x.new_empty(len(sizes), x.shape[1], dtype=torch.float32) for _ in range(2))
    running = running_mean, running_var, num_batches_tracked
    tensors = x, weight, bias, *running, out, mean, invstd
    _launch_few(_few_kernel, tensors, x, sizes, (float(momentum), float(eps)), relu)
    return out, mean, invstd


@else_twin(torch.preserve_format, part='grouped_batch_norm_backward')
def batch_norm_of_few_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    invstd: Tensor,
    sizes: Sequence[int],
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel of :func:`mtp.ops.grouped_batch_norm.batch_norm_of_few_backward`."""
    grads = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
    tensors = grad, x, weight, bias, mean, invstd, *grads
    _launch_few(_few_backward_kernel, tensors, x, sizes, (), relu)
    return grads


def _launch_few(
    kernel: Any,
    tensors: tuple[Tensor, ...],
    x: Tensor,
    sizes: Sequence[int],
    numbers: tuple[float, ...],
    relu: bool,
) -> None:
    """Launch a kernel that takes groups of few rows, one program for each block of channels."""
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(channels, FEW['BLOCK_C']),)](
            *tensors,
            tuple(size * pixels for size in sizes),
            pixels,
            channels,
            *numbers,
            **FEW,
            RELU=relu,
            LAST=x.is_contiguous(memory_format=torch.channels_last),
            num_warps=FEW_WARPS,
        )


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], x: Tensor, sizes: Sequence[int], **constants: Any
) -> None:
    """Launch a kernel on maps: ``SPLITS`` programs for each group and block of channels if it sums,
    else one for each tile."""
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    tile = _tile(x.is_contiguous(memory_format=torch.channels_last))
    programs = constants.get('SPLITS') or triton.cdiv(max(sizes) * pixels, tile['ROWS'])
    with torch.cuda.device_of(x):
        kernel[(programs * triton.cdiv(channels, tile['BLOCK_C']), len(sizes))](
            *tensors, tuple(size * pixels for size in sizes), pixels, channels, **tile, **constants
        )


def _tile(last: bool) -> dict[str, Any]:
    """Return the pixels and channels of a program at a time: 128 bytes or more in a row of memory.

    With tiles of twice the size, programs that sum take 155 registers.
    """
    rows, channels = (32, 64) if last else (128, 16)
    return {'LAST': last, 'ROWS': rows, 'BLOCK_C': channels}


def compile_cases() -> Iterator[CompileCase]:
    """Yield both layouts in bfloat16, and one in the other dtypes, for three groups."""
    finish = {'SPLITS': SPLITS, 'BLOCK_C': FINISH_C}
    yield _case(_statistics_kernel, torch.float32, finish)
    yield _case(_weights_backward_kernel, torch.float32, finish)
    for dtype, last in (
        (torch.bfloat16, True),
        (torch.bfloat16, False),
        (torch.float16, True),
        (torch.float32, False),
    ):
        tile = _tile(last)
        yield _case(_sums_kernel, dtype, {**tile, 'SPLITS': SPLITS})
        yield _case(_normalise_kernel, dtype, {**tile, 'RELU': True})
        yield _case(_sums_backward_kernel, dtype, {**tile, 'RELU': True, 'SPLITS': SPLITS})
        yield _case(_normalise_backward_kernel, dtype, {**tile, 'RELU': True})
        few = {**FEW, 'LAST': last, 'RELU': True}
        yield _case(_few_kernel, dtype, few, FEW_WARPS)
        yield _case(_few_backward_kernel, dtype, few, FEW_WARPS)


def _case(
    kernel: Any, dtype: torch.dtype, constants: dict[str, Any], num_warps: int = 4
) -> CompileCase:
    of_forward = kernel in (_sums_kernel, _statistics_kernel)
    types: dict[str, str | tuple[str, ...]] = {
        **dict.fromkeys(kernel.arg_names, '*fp32'),
        **dict.fromkeys(('x', 'out', 'grad', 'grad_x'), f'*{TRITON_NAMES[dtype]}'),
        'sums': '*fp64' if of_forward else '*fp32',
        'num_batches_tracked': '*i64',
        'rows': ('i32', 'i32', 'i32'),
        **dict.fromkeys(('pixels', 'channels', 'groups', 'splits'), 'i32'),
        **dict.fromkeys(('momentum', 'eps'), 'fp32'),
        **dict.fromkeys(constants, 'constexpr'),
    }
    signature = {name: types[name] for name in kernel.arg_names}
    return CompileCase(kernel, signature, constants, num_warps)
