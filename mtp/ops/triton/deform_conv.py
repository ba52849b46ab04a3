"""DCNv3 forward and backward, each in one pass.

A row is a group at an output position. Offsets, masks and outputs of consecutive rows are adjacent
in memory, and so are the channels of consecutive groups in the input. A program takes a tile of
rows x the channels of a group and loops over the taps. Loads are 16 bytes wide along channels.
Small groups share a program, and so do neighbouring positions, whose samples overlap in the cache.
Neither the samples nor a padded input are ever stored in memory.

Memory traffic in float32 of an image of 56 x 56 pixels, 24 groups of 16 channels and a 3 x 3
kernel: the forward pass moves 4.8 MB of input, 5.4 of offsets, 2.7 of masks and 4.8 of output,
17.8 MB in all. The backward pass moves the same with the output's gradient, 8.1 MB of gradients of
offsets and masks and twice 4.8 of the input's gradient (cleared, then added to in the cache),
35.5 MB in all. With ``grid_sample`` and permutes (the paper's formulation) it is 287 MB and 351 MB.

Shapes as in :mod:`mtp.ops.deform_conv`. Pixel indices of an image have 32 bits, element indices 64.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase


@triton.jit
def _rows(
    positions: tl.tensor,
    width_out: tl.tensor,
    group: tl.tensor,
    stride: tl.tensor,
    origin: tl.tensor,
    BLOCK_P: tl.constexpr,
    BLOCK_G: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Return the rows of this program: image, row, group, pixel (x, y) of the kernel's centre, and
    whether the row exists."""
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK_P * BLOCK_G)
    tiles = tl.cdiv(group, BLOCK_G)
    g = program % tiles * BLOCK_G + lane % BLOCK_G
    program = program // tiles
    tiles = tl.cdiv(positions, BLOCK_P)
    position = program % tiles * BLOCK_P + lane // BLOCK_G
    image = (program // tiles).to(tl.int64)
    x = position % width_out * stride + origin
    y = position // width_out * stride + origin
    return (
        image,
        (image * positions + position) * group + g,
        g,
        x,
        y,
        (position < positions) & (g < group),
    )


@triton.jit
def _tap(
    offset: tl.tensor,
    mask: tl.tensor,
    index: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    tap_x: tl.tensor,
    tap_y: tl.tensor,
    offset_scale: tl.tensor,
    present: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Return the pixel (x, y) above and left of a tap's sample, the distances from it, and the
    mask."""
    # The integer part of the position stays out of float32: no digits are lost far from 0.
    dx = (tap_x + tl.load(offset + 2 * index, mask=present, other=0).to(tl.float32)) * offset_scale
    dy = (
        tap_y + tl.load(offset + 2 * index + 1, mask=present, other=0).to(tl.float32)
    ) * offset_scale
    left, top = tl.floor(dx), tl.floor(dy)
    x += tl.clamp(left, -16777216.0, 16777216.0).to(tl.int32)  # beyond any image
    y += tl.clamp(top, -16777216.0, 16777216.0).to(tl.int32)
    factor = tl.load(mask + index, mask=present, other=0).to(tl.float32)
    return x, y, dx - left, dy - top, factor


@triton.jit
def _corners(
    x: tl.tensor,
    y: tl.tensor,
    g: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    group: tl.tensor,
    channels: tl.tensor,
    present: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Return the element of the pixel above and left of a sample, and whether the left and right
    column and the top and bottom row are in the image.

    Of pixels outside the image the element has no meaning. One product has 64 bits; the other three
    corners are constant distances away.
    """
    element = ((y * width + x).to(tl.int64) * group + g) * channels
    left, right = (x >= 0) & (x < width), (x >= -1) & (x < width - 1)
    top, bottom = present & (y >= 0) & (y < height), present & (y >= -1) & (y < height - 1)
    return element, left, right, top, bottom


@triton.jit
def dcnv3_forward_kernel(
    input: tl.tensor,
    offset: tl.tensor,
    mask: tl.tensor,
    output: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    positions: tl.tensor,
    width_out: tl.tensor,
    group: tl.tensor,
    channels: tl.tensor,
    kernel_size: tl.tensor,
    stride: tl.tensor,
    origin: tl.tensor,
    dilation: tl.tensor,
    offset_scale: tl.tensor,
    centre: tl.tensor,
    taps: tl.tensor,
    BLOCK_P: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    image, row, g, x, y, inside = _rows(
        positions, width_out, group, stride, origin, BLOCK_P, BLOCK_G
    )
    channel = tl.arange(0, BLOCK_C)[None, :]
    input += image * height * width * group * channels
    middle = dilation * (kernel_size - 1) // 2
    out = tl.zeros((BLOCK_P * BLOCK_G, BLOCK_C), tl.float32)
    for a in range(kernel_size):
        for b in tl.range(kernel_size, loop_unroll_factor=3):
            tap = a * kernel_size + b
            present = inside & (tap != centre)
            index = row * taps + tap - (tap > centre)
            x0, y0, fx, fy, factor = _tap(
                offset,
                mask,
                index,
                x,
                y,
                a * dilation - middle,
                b * dilation - middle,
                offset_scale,
                present,
            )
            element, left, right, top, bottom = _corners(
                x0, y0, g, height, width, group, channels, present
            )
            for corner in tl.static_range(4):
                weight = (fx if corner % 2 else 1 - fx) * (fy if corner // 2 else 1 - fy)
                valid = (right if corner % 2 else left) & (bottom if corner // 2 else top)
                step = (corner // 2 * width + corner % 2) * group * channels
                value = tl.load(
                    input + element[:, None] + step + channel,
                    mask=valid[:, None] & (channel < channels),
                    other=0,
                )
                out += (weight * factor)[:, None] * value.to(tl.float32)
    tl.store(
        output + row[:, None] * channels + channel,
        out.to(output.dtype.element_ty),
        mask=inside[:, None] & (channel < channels),
    )


@triton.jit
def dcnv3_backward_kernel(
    grad_output: tl.tensor,
    input: tl.tensor,
    offset: tl.tensor,
    mask: tl.tensor,
    grad_input: tl.tensor,
    grad_offset: tl.tensor,
    grad_mask: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    positions: tl.tensor,
    width_out: tl.tensor,
    group: tl.tensor,
    channels: tl.tensor,
    kernel_size: tl.tensor,
    stride: tl.tensor,
    origin: tl.tensor,
    dilation: tl.tensor,
    offset_scale: tl.tensor,
    centre: tl.tensor,
    taps: tl.tensor,
    BLOCK_P: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    image, row, g, x, y, inside = _rows(
        positions, width_out, group, stride, origin, BLOCK_P, BLOCK_G
    )
    channel = tl.arange(0, BLOCK_C)[None, :]
    input += image * height * width * group * channels
    grad_input += image * height * width * group * channels
    middle = dilation * (kernel_size - 1) // 2
    grad = tl.load(
        grad_output + row[:, None] * channels + channel,
        mask=inside[:, None] & (channel < channels),
        other=0,
    ).to(tl.float32)
    for a in range(kernel_size):
        for b in range(kernel_size):
            tap = a * kernel_size + b
            present = inside & (tap != centre)
            index = row * taps + tap - (tap > centre)
            x0, y0, fx, fy, factor = _tap(
                offset,
                mask,
                index,
                x,
                y,
                a * dilation - middle,
                b * dilation - middle,
                offset_scale,
                present,
            )
            grad_x = tl.zeros((BLOCK_P * BLOCK_G,), tl.float32)
            grad_y = tl.zeros((BLOCK_P * BLOCK_G,), tl.float32)
            grad_factor = tl.zeros((BLOCK_P * BLOCK_G,), tl.float32)
            element, left, right, top, bottom = _corners(
                x0, y0, g, height, width, group, channels, present
            )
            for corner in tl.static_range(4):
                weight_x = fx if corner % 2 else 1 - fx
                weight_y = fy if corner // 2 else 1 - fy
                valid = (right if corner % 2 else left) & (bottom if corner // 2 else top)
                filled = valid[:, None] & (channel < channels)
                place = element[:, None] + (corner // 2 * width + corner % 2) * group * channels
                value = tl.load(input + place + channel, mask=filled, other=0)
                product = tl.sum(grad * value.to(tl.float32), 1)
                grad_factor += weight_x * weight_y * product
                grad_x += product * (weight_y if corner % 2 else -weight_y)
                grad_y += product * (weight_x if corner // 2 else -weight_x)
                tl.atomic_add(
                    grad_input + place + channel,
                    (weight_x * weight_y * factor)[:, None] * grad,
                    mask=filled,
                    sem='relaxed',
                )
            scale = factor * offset_scale
            dtype = grad_offset.dtype.element_ty
            tl.store(grad_offset + 2 * index, (grad_x * scale).to(dtype), mask=present)
            tl.store(grad_offset + 2 * index + 1, (grad_y * scale).to(dtype), mask=present)
            tl.store(grad_mask + index, grad_factor.to(grad_mask.dtype.element_ty), mask=present)


@torch.library.custom_op('mtp::dcnv3', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin()
def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    group: int,
    offset_scale: float,
    remove_center: bool,
) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.dcnv3` on checked tensors."""
    input, offset, mask = input.contiguous(), offset.contiguous(), mask.contiguous()
    output = input.new_empty(*mask.shape[:3], input.shape[3])
    if len(input):
        _launch(
            dcnv3_forward_kernel,
            (input, offset, mask, output),
            input,
            mask,
            kernel_size,
            stride,
            pad,
            dilation,
            group,
            offset_scale,
            remove_center,
        )
    return output


@dcnv3.register_fake
def _(input: Tensor, offset: Tensor, mask: Tensor, *settings: Any) -> Tensor:
    return input.new_empty(*mask.shape[:3], input.shape[3])


@torch.library.custom_op('mtp::dcnv3_backward', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin(atomics=True)
def dcnv3_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    group: int,
    offset_scale: float,
    remove_center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, offset and mask."""
    input, offset, mask = input.contiguous(), offset.contiguous(), mask.contiguous()
    grad_input = torch.zeros_like(input, dtype=torch.float32)  # many additions per pixel
    grad_offset, grad_mask = torch.empty_like(offset), torch.empty_like(mask)
    if len(input):
        _launch(
            dcnv3_backward_kernel,
            (grad_output.contiguous(), input, offset, mask, grad_input, grad_offset, grad_mask),
            input,
            mask,
            kernel_size,
            stride,
            pad,
            dilation,
            group,
            offset_scale,
            remove_center,
        )
    return grad_input.to(input.dtype), grad_offset, grad_mask


@dcnv3_backward.register_fake
def _(
    grad_output: Tensor, input: Tensor, offset: Tensor, mask: Tensor, *settings: Any
) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (input, offset, mask))


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grads = dcnv3_backward(grad_output, *ctx.saved_tensors, *ctx.settings)
    return *grads, *(None for _ in ctx.settings)


dcnv3.register_autograd(_backward, setup_context=_setup_context)


def _launch(
    kernel: Any,
    tensors: tuple[Tensor, ...],
    input: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    group: int,
    offset_scale: float,
    remove_center: bool,
) -> None:
    images, height, width, channels = input.shape
    positions = mask.shape[1] * mask.shape[2]
    tile, warps = _tile(kernel, channels // group)
    programs = (
        images * triton.cdiv(positions, tile['BLOCK_P']) * triton.cdiv(group, tile['BLOCK_G'])
    )
    with torch.cuda.device_of(input):  # Triton launches on the current device
        kernel[programs,](
            *tensors,
            height,
            width,
            positions,
            mask.shape[2],
            group,
            channels // group,
            kernel_size,
            stride,
            dilation * (kernel_size - 1) // 2 - pad,
            dilation,
            float(offset_scale),
            kernel_size**2 // 2 if remove_center else kernel_size**2,
            mask.shape[3] // group,
            **tile,
            num_warps=warps,
        )


def _tile(kernel: Any, channels: int) -> tuple[dict[str, int], int]:
    """Return the positions, groups and channels of a program, and its number of warps."""
    columns = max(16, triton.next_power_of_2(channels))
    groups = max(1, 64 // columns)
    # In the forward pass, warps share the samples of neighbouring positions. In the backward pass
    # they would have to wait for each other at every tap.
    warps = 4 if kernel is dcnv3_forward_kernel else max(1, columns // 256)
    wide = 8 if channels % 16 == 0 else 2  # channels per thread, limited by the width of a load
    positions = max(1, 32 * warps * wide // (columns * groups))
    return {'BLOCK_P': positions, 'BLOCK_G': groups, 'BLOCK_C': columns}, warps


def compile_cases() -> Iterator[CompileCase]:
    """Yield every tile; that of 16 channels in all dtypes of training with and without autocast."""
    mixed = torch.bfloat16, torch.float32, torch.float32
    cases = [(16, (dtype,) * 3) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    cases += [(16, (dtype, dtype, torch.float32)) for dtype in (torch.bfloat16, torch.float16)]
    columns = [16 << n for n in range(7)]
    for kernel, tensors in (
        (dcnv3_forward_kernel, ('input', 'offset', 'mask', 'input')),
        (dcnv3_backward_kernel, ('input', 'input', 'offset', 'mask', 'sum', 'offset', 'mask')),
    ):
        narrow = [(c - 1, mixed) for c in columns if _tile(kernel, c - 1) != _tile(kernel, c)]
        for channels, dtypes in [*cases, *((c, mixed) for c in columns), *narrow]:
            tile, warps = _tile(kernel, channels)
            dtype = dict(zip(('input', 'offset', 'mask', 'sum'), (*dtypes, torch.float32)))
            signature = dict.fromkeys(kernel.arg_names, 'i32') | {'offset_scale': 'fp32'}
            signature |= {
                name: '*' + TRITON_NAMES[dtype[tensor]]
                for name, tensor in zip(kernel.arg_names, tensors)
            }
            yield CompileCase(kernel, signature | dict.fromkeys(tile, 'constexpr'), tile, warps)
