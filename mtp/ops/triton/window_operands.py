"""Transforms of all windows and the bias of their logits in one launch, and their gradients in one.

Programs differ by their number. Forward: one for each window (mean of its tokens, then the three
affine maps) and one for each head (its bias, spread from the table). Backward: one for each window
(gradient of its tokens), one for each map and block of channels (its gradients, summed over all
windows), one for each row of the table and head. Nothing is added to memory by two programs, so
that gradients are the same bits in every run.

Memory traffic of 16 images of 448 px (28 x 28 tokens, 768 channels, 12 heads, 16 windows an image)
with float32 tokens: forward reads 38.5 MB of tokens, and the 0.18 MB of weights once a window, 47
MB from the cache; backward writes 38.5 MB and reads the weights likewise.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase, contiguous

BLOCK_C = 32  # channels at a time; with 64, registers spill
ROWS = tl.constexpr(16)  # of means at a time; of a row of the table, padded
SLOPE = tl.constexpr(0.01)  # of the leaky ReLU below 0
WARPS = 4


@triton.jit
def _tokens(
    row: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
    BLOCK_T: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Return the image of a window, its number there, and the index and existence of its tokens."""
    windows = windows_y * windows_x
    image, window = (row // windows).to(tl.int64), row % windows
    token = tl.arange(0, BLOCK_T)
    y = window // windows_x * size + token // size - (windows_y * size - height) // 2
    x = window % windows_x * size + token % size - (windows_x * size - width) // 2
    inside = (token < size * size) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return image, window, (image * height + y) * width + x, inside


@triton.jit
def _weights(
    weight: tl.tensor, number: tl.tensor, c: tl.tensor, channels: tl.tensor, OUT: tl.constexpr
) -> tl.tensor:
    """Load the weights ``(OUT, BLOCK_C)`` of a map to ``number`` outputs."""
    out = tl.arange(0, OUT)[:, None]
    there = (out < number) & (c < channels)[None, :]
    return tl.load(weight + out * channels + c[None, :], there, other=0).to(tl.float32)


@triton.jit
def _store_outputs(
    values: tl.tensor,
    bias: tl.tensor,
    target: tl.tensor,
    number: tl.tensor,
    image: tl.tensor,
    window: tl.tensor,
    windows: tl.tensor,
    OUT: tl.constexpr,
) -> None:
    out = tl.arange(0, OUT)
    values += tl.load(bias + out, out < number, other=0).to(tl.float32)
    tl.store(target + (image * number + out) * windows + window, values, out < number)


@triton.jit
def _map_window(
    x: tl.tensor,
    offset_weight: tl.tensor,
    offset_bias: tl.tensor,
    scale_weight: tl.tensor,
    scale_bias: tl.tensor,
    angle_weight: tl.tensor,
    angle_bias: tl.tensor,
    offsets: tl.tensor,
    scales: tl.tensor,
    angles: tl.tensor,
    means: tl.tensor,
    row: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
    OUT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Store the mean of a window, and its transform for each head."""
    image, window, token, inside = _tokens(row, height, width, size, windows_y, windows_x, BLOCK_T)
    offset = tl.zeros((OUT,), tl.float32)
    scale = tl.zeros((OUT,), tl.float32)
    angle = tl.zeros((OUT,), tl.float32)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        there = inside[:, None] & (c < channels)[None, :]
        values = tl.load(x + token[:, None] * channels + c[None, :], there, other=0)
        mean = tl.sum(values.to(tl.float32), 0) / (size * size)
        mean = tl.where(mean > 0, mean, mean * SLOPE)
        tl.store(means + row.to(tl.int64) * channels + c, mean, c < channels)
        mean = mean[None, :]
        offset += tl.sum(_weights(offset_weight, 2 * heads, c, channels, OUT) * mean, 1)
        scale += tl.sum(_weights(scale_weight, 2 * heads, c, channels, OUT) * mean, 1)
        angle += tl.sum(_weights(angle_weight, heads, c, channels, OUT) * mean, 1)
    windows = windows_y * windows_x
    _store_outputs(offset, offset_bias, offsets, 2 * heads, image, window, windows, OUT)
    _store_outputs(scale, scale_bias, scales, 2 * heads, image, window, windows, OUT)
    _store_outputs(angle, angle_bias, angles, heads, image, window, windows, OUT)


@triton.jit
def _spread_bias(
    bias_table: tl.tensor,
    bias: tl.tensor,
    head: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    BLOCK_T: tl.constexpr,
) -> None:
    """Store the bias of a head for all pairs of query and key."""
    token = tl.arange(0, BLOCK_T)
    down, across = token // size, token % size
    down = down[:, None] - down[None, :] + size - 1
    across = across[:, None] - across[None, :] + size - 1
    place = down * (2 * size - 1) + across
    there = (token < size * size)[:, None] & (token < size * size)[None, :]
    value = tl.load(bias_table + place * heads + head, there, other=0)
    query = head * size * size + token[:, None]
    tl.store(bias + query * size * size + token[None, :], value, there)


@triton.jit
def _forward_kernel(
    x: tl.tensor,
    offset_weight: tl.tensor,
    offset_bias: tl.tensor,
    scale_weight: tl.tensor,
    scale_bias: tl.tensor,
    angle_weight: tl.tensor,
    angle_bias: tl.tensor,
    bias_table: tl.tensor,
    offsets: tl.tensor,
    scales: tl.tensor,
    angles: tl.tensor,
    bias: tl.tensor,
    means: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
    rows: tl.tensor,
    OUT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    if program < rows:
        _map_window(
            x,
            offset_weight,
            offset_bias,
            scale_weight,
            scale_bias,
            angle_weight,
            angle_bias,
            offsets,
            scales,
            angles,
            means,
            program,
            height,
            width,
            channels,
            heads,
            size,
            windows_y,
            windows_x,
            OUT,
            BLOCK_T,
            BLOCK_C,
        )
    else:
        _spread_bias(bias_table, bias, program - rows, heads, size, BLOCK_T)


@triton.jit
def _load_grads(
    grad: tl.tensor,
    row: tl.tensor,
    number: tl.tensor,
    windows: tl.tensor,
    rows: tl.tensor,
    OUT: tl.constexpr,
) -> tl.tensor:
    """Load the gradients ``(OUT, ROWS)`` of a map's outputs at some windows."""
    out = tl.arange(0, OUT)[:, None]
    place = ((row // windows).to(tl.int64)[None, :] * number + out) * windows + row % windows
    return tl.load(grad + place, (out < number) & (row < rows)[None, :], other=0).to(tl.float32)


@triton.jit
def _map_gradients(
    grad: tl.tensor,
    means: tl.tensor,
    grad_weight: tl.tensor,
    grad_bias: tl.tensor,
    number: tl.tensor,
    block: tl.tensor,
    channels: tl.tensor,
    windows: tl.tensor,
    rows: tl.tensor,
    OUT: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Store the gradients of a map's weights at a block of channels; the first also its biases'."""
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((OUT, BLOCK_C), tl.float32)
    count = tl.zeros((OUT,), tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        grads = _load_grads(grad, row, number, windows, rows, OUT)
        there = (row < rows)[:, None] & (c < channels)[None, :]
        mean = tl.load(means + row.to(tl.int64)[:, None] * channels + c[None, :], there, other=0)
        total += tl.dot(grads, mean, input_precision='ieee')
        count += tl.sum(grads, 1)
    out = tl.arange(0, OUT)
    there = (out < number)[:, None] & (c < channels)[None, :]
    tl.store(grad_weight + out[:, None] * channels + c[None, :], total, there)
    tl.store(grad_bias + out, count, (out < number) & (block == 0))


@triton.jit
def _mean_gradient(
    grad: tl.tensor,
    weight: tl.tensor,
    row: tl.tensor,
    number: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
    windows: tl.tensor,
    OUT: tl.constexpr,
) -> tl.tensor:
    """Return what the outputs of a map give to the mean of a window."""
    out = tl.arange(0, OUT)
    place = ((row // windows).to(tl.int64) * number + out) * windows + row % windows
    grads = tl.load(grad + place, out < number, other=0).to(tl.float32)
    return tl.sum(grads[:, None] * _weights(weight, number, c, channels, OUT), 0)


@triton.jit
def _token_gradients(
    offset_weight: tl.tensor,
    scale_weight: tl.tensor,
    angle_weight: tl.tensor,
    means: tl.tensor,
    grad_offsets: tl.tensor,
    grad_scales: tl.tensor,
    grad_angles: tl.tensor,
    grad_x: tl.tensor,
    row: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
    OUT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Store the gradient of a window's tokens, which is the same for all of them."""
    _, _, token, inside = _tokens(row, height, width, size, windows_y, windows_x, BLOCK_T)
    windows = windows_y * windows_x
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        grad = _mean_gradient(
            grad_offsets, offset_weight, row, 2 * heads, c, channels, windows, OUT
        )
        grad += _mean_gradient(grad_scales, scale_weight, row, 2 * heads, c, channels, windows, OUT)
        grad += _mean_gradient(grad_angles, angle_weight, row, heads, c, channels, windows, OUT)
        mean = tl.load(means + row.to(tl.int64) * channels + c, c < channels, other=0)
        grad = tl.where(mean > 0, grad, grad * SLOPE) / (size * size)
        grad = tl.broadcast_to(grad[None, :], (BLOCK_T, BLOCK_C))
        there = inside[:, None] & (c < channels)[None, :]
        tl.store(grad_x + token[:, None] * channels + c[None, :], grad, there)


@triton.jit
def _table_gradient(
    grad_bias: tl.tensor,
    grad_bias_table: tl.tensor,
    number: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    BLOCK_T: tl.constexpr,
) -> None:
    """Store the gradient of a head's table where query and key are ``a`` rows apart: for each
    distance ``b`` of columns, the sum over keys, each of which has one such query."""
    span = 2 * size - 1
    head, a = number // span, number % span
    b = tl.arange(0, ROWS)
    key = tl.arange(0, BLOCK_T)[None, :]
    y, x = key // size + a - size + 1, key % size + b[:, None] - size + 1
    there = (key < size * size) & (y >= 0) & (y < size) & (x >= 0) & (x < size)
    place = (head * size * size + y * size + x) * size * size + key
    total = tl.sum(tl.load(grad_bias + place, there, other=0).to(tl.float32), 1)
    tl.store(grad_bias_table + (a * span + b) * heads + head, total, b < span)


@triton.jit
def _backward_kernel(
    offset_weight: tl.tensor,
    scale_weight: tl.tensor,
    angle_weight: tl.tensor,
    means: tl.tensor,
    grad_offsets: tl.tensor,
    grad_scales: tl.tensor,
    grad_angles: tl.tensor,
    grad_bias: tl.tensor,
    grad_x: tl.tensor,
    grad_offset_weight: tl.tensor,
    grad_offset_bias: tl.tensor,
    grad_scale_weight: tl.tensor,
    grad_scale_bias: tl.tensor,
    grad_angle_weight: tl.tensor,
    grad_angle_bias: tl.tensor,
    grad_bias_table: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
    rows: tl.tensor,
    OUT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, BLOCK_C)
    windows = windows_y * windows_x
    if program < rows:
        _token_gradients(
            offset_weight,
            scale_weight,
            angle_weight,
            means,
            grad_offsets,
            grad_scales,
            grad_angles,
            grad_x,
            program,
            height,
            width,
            channels,
            heads,
            size,
            windows_y,
            windows_x,
            OUT,
            BLOCK_T,
            BLOCK_C,
        )
    elif program < rows + blocks:
        block = program - rows
        _map_gradients(
            grad_offsets,
            means,
            grad_offset_weight,
            grad_offset_bias,
            2 * heads,
            block,
            channels,
            windows,
            rows,
            OUT,
            BLOCK_C,
        )
    elif program < rows + 2 * blocks:
        block = program - rows - blocks
        _map_gradients(
            grad_scales,
            means,
            grad_scale_weight,
            grad_scale_bias,
            2 * heads,
            block,
            channels,
            windows,
            rows,
            OUT,
            BLOCK_C,
        )
    elif program < rows + 3 * blocks:
        block = program - rows - 2 * blocks
        _map_gradients(
            grad_angles,
            means,
            grad_angle_weight,
            grad_angle_bias,
            heads,
            block,
            channels,
            windows,
            rows,
            OUT,
            BLOCK_C,
        )
    else:
        _table_gradient(
            grad_bias, grad_bias_table, program - rows - 3 * blocks, heads, size, BLOCK_T
        )


@torch.library.custom_op('mtp::window_operands', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin()
def window_operands(
    x: Tensor,
    height: int,
    width: int,
    window_size: int,
    offset_weight: Tensor,
    offset_bias: Tensor,
    scale_weight: Tensor,
    scale_bias: Tensor,
    angle_weight: Tensor,
    angle_bias: Tensor,
    bias_table: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launch the forward kernel; differentiable in every tensor.

    Args:
        x: tokens ``(B, height * width, D)``.
        height, width, window_size: grid and side of a window, tokens; the latter at most 8.
        offset_weight, offset_bias, scale_weight, scale_bias, angle_weight, angle_bias: affine maps
            of at most 32 heads, see :func:`mtp.ops.window_operands.window_operands`.
        bias_table: bias by relative position.

    Returns:
        tuple[Tensor, Tensor, Tensor, Tensor, Tensor]: offsets, scales and angles in float32, the
        bias, and the mean token of each window after the leaky ReLU ``(B, n_h, n_w, D)`` float32.
    """
    parameters = (
        offset_weight,
        offset_bias,
        scale_weight,
        scale_bias,
        angle_weight,
        angle_bias,
        bias_table,
    )
    outputs = _fake(x, height, width, window_size, *parameters)
    heads, rows = len(angle_bias), outputs[4][..., 0].numel()
    tensors = *contiguous(x, *parameters), *outputs
    _launch(_forward_kernel, rows + heads, tensors, x, height, width, window_size, heads, rows)
    return outputs


@window_operands.register_fake
def _fake(
    x: Tensor, height: int, width: int, size: int, *parameters: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, channels, heads = x.shape[0], x.shape[2], len(parameters[5])
    windows = -(-height // size), -(-width // size)

    def empty(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=torch.float32)

    return (
        empty(batch, heads, 2, *windows),
        empty(batch, heads, 2, *windows),
        empty(batch, heads, *windows),
        parameters[6].new_empty(heads, size**2, size**2),
        empty(batch, *windows, channels),
    )


@torch.library.custom_op(
    'mtp::window_operands_backward', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin()
def window_operands_backward(
    x: Tensor,
    height: int,
    width: int,
    window_size: int,
    offset_weight: Tensor,
    offset_bias: Tensor,
    scale_weight: Tensor,
    scale_bias: Tensor,
    angle_weight: Tensor,
    angle_bias: Tensor,
    bias_table: Tensor,
    means: Tensor,
    grad_offsets: Tensor,
    grad_scales: Tensor,
    grad_angles: Tensor,
    grad_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of all tensors of :func:`window_operands`."""
    parameters = (
        offset_weight,
        offset_bias,
        scale_weight,
        scale_bias,
        angle_weight,
        angle_bias,
        bias_table,
    )
    grads = _backward_fake(x, height, width, window_size, *parameters)
    heads, rows = len(angle_bias), means[..., 0].numel()
    programs = rows + 3 * triton.cdiv(x.shape[2], BLOCK_C) + heads * (2 * window_size - 1)
    weights = offset_weight, scale_weight, angle_weight, means
    grad_outputs = grad_offsets, grad_scales, grad_angles, grad_bias
    tensors = *contiguous(*weights, *grad_outputs), *grads
    _launch(_backward_kernel, programs, tensors, x, height, width, window_size, heads, rows)
    return grads


@window_operands_backward.register_fake
def _backward_fake(
    x: Tensor, height: int, width: int, size: int, *parameters: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, *parameters[:7]))  # type: ignore[return-value]  # of eight


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    x, *ctx.sizes = inputs[:4]
    ctx.save_for_backward(x, *inputs[4:], output[4])
    ctx.mark_non_differentiable(output[4])
    ctx.set_materialize_grads(False)  # the means would be given zeros, by one more launch
    ctx.shapes = [t.shape for t in output[:4]]


def _gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    x, *saved = ctx.saved_tensors
    present = [
        x.new_zeros(shape) if grad is None else grad for grad, shape in zip(grads, ctx.shapes)
    ]
    grad_x, *others = window_operands_backward(x, *ctx.sizes, *saved, *present)
    return grad_x, None, None, None, *others


window_operands.register_autograd(_gradients, setup_context=_save)


def _launch(
    kernel: Any,
    programs: int,
    tensors: tuple[Tensor, ...],
    x: Tensor,
    height: int,
    width: int,
    size: int,
    heads: int,
    rows: int,
) -> None:
    with torch.cuda.device_of(x):  # Triton launches on the current device
        kernel[(programs,)](
            *tensors,
            height,
            width,
            x.shape[2],
            heads,
            size,
            -(-height // size),
            -(-width // size),
            rows,
            **_blocks(heads, size),
            num_warps=WARPS,
        )


def _blocks(heads: int, size: int) -> dict[str, int]:
    return {
        'OUT': max(16, triton.next_power_of_2(2 * heads)),
        'BLOCK_T': triton.next_power_of_2(size**2),
        'BLOCK_C': BLOCK_C,
    }


def compile_cases() -> Iterator[CompileCase]:
    """Yield the released models' blocks and the largest, in all float32 and in all bfloat16."""
    parameters = [
        f'{kind}_{what}' for kind in ('offset', 'scale', 'angle') for what in ('weight', 'bias')
    ] + ['bias_table']
    like_parameters = {*parameters, *(f'grad_{name}' for name in parameters), 'bias', 'grad_bias'}
    float32 = 'offsets', 'scales', 'angles', 'grad_offsets', 'grad_scales', 'grad_angles', 'means'
    for kernel in (_forward_kernel, _backward_kernel):
        for tokens, others in (
            (torch.float32, torch.float32),
            (torch.bfloat16, torch.bfloat16),
        ):
            types = {
                **dict.fromkeys(like_parameters, f'*{TRITON_NAMES[others]}'),
                **dict.fromkeys(float32, '*fp32'),
                **dict.fromkeys(('x', 'grad_x'), f'*{TRITON_NAMES[tokens]}'),
                **dict.fromkeys(('OUT', 'BLOCK_T', 'BLOCK_C'), 'constexpr'),
            }
            for heads, size in ((16, 7), (32, 8)):
                yield CompileCase(
                    kernel,
                    {name: types.get(name, 'i32') for name in kernel.arg_names},
                    _blocks(heads, size),
                    WARPS,
                )
