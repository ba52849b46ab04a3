"""Rotated varied-size window attention in one pass: kernels, operator, gradient.

A program takes one window of one head of one image. Its tokens are laid out as 8 x 8, whatever the
window's side, so that sums over the rows or columns of keys are sums over an axis.

Memory traffic per image of 448 px (28 x 28 tokens, 12 heads of 64 channels) in bfloat16: the
forward pass moves 5 MB (q, k, v, grid in; out, log-sum-exp out), the paper's code in float32
174 MB. The backward pass moves 19 MB, 12 of them for the gradients of k and v in float32 (zeroed,
summed, rounded), the paper's code 345 MB. Products of the 64 x 64 tiles take 0.25 GFLOP forward and
about 1 GFLOP backward.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase

SIDE = tl.constexpr(8)
TOKENS = tl.constexpr(64)
ROWS = tl.constexpr(16)  # of a relative table, padded: it has 2 * 8 - 1 at most

# TRITON_INTERPRET; triton.knobs tells it too, but not before Triton 3.4.
INTERPRETED = tl.constexpr(
    os.environ.get('TRITON_INTERPRET', '0').lower() in ('1', 'true', 'yes', 'on')
)


@triton.jit
def _dot(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    if INTERPRETED:  # the interpreter of Triton 3.6 multiplies the bits of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision='ieee')


@triton.jit
def _program(
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Return the image, the head, and each token's index, existence, and row and column."""
    program = tl.program_id(0)
    head = program % heads
    window = program // heads % (windows_y * windows_x)
    image = (program // heads // (windows_y * windows_x)).to(tl.int64)
    token = tl.arange(0, TOKENS)
    exists = (token // SIDE < size) & (token % SIDE < size)
    y = window // windows_x * size + token // SIDE  # on the padded grid
    x = window % windows_x * size + token % SIDE
    return image, head, token, exists, y, x


@triton.jit
def _positions(
    grid: tl.tensor,
    image: tl.tensor,
    head: tl.tensor,
    heads: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    exists: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Return where each key is sampled, (x, y) in tokens, and its offset in ``grid``."""
    place = (((image * heads + head) * rows + y) * columns + x) * 2
    sample_x = tl.load(grid + place, exists, other=-4)
    sample_y = tl.load(grid + place + 1, exists, other=-4)
    sample_x = (sample_x + 1) * 0.5 * (columns - 1) - (columns - width) // 2
    sample_y = (sample_y + 1) * 0.5 * (rows - 1) - (rows - height) // 2
    return sample_x, sample_y, place


@triton.jit
def _corner(
    x: tl.tensor,
    y: tl.tensor,
    number: tl.tensor,
    exists: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Return a neighbour of each position: row, column, weights along x and y, whether inside."""
    corner_x, corner_y = tl.floor(x) + number % 2, tl.floor(y) + number // 2
    # Compared as floats: positions may exceed the range of integers, or be NaN, which is never
    # inside.
    inside = exists & (corner_x >= 0) & (corner_x < width) & (corner_y >= 0) & (corner_y < height)
    weight_x = tl.where(inside, 1 - tl.abs(x - corner_x), 0)
    weight_y = tl.where(inside, 1 - tl.abs(y - corner_y), 0)
    column = tl.where(inside, corner_x, 0).to(tl.int32)
    row = tl.where(inside, corner_y, 0).to(tl.int32)
    return row, column, weight_x, weight_y, inside


@triton.jit
def _load(
    tensor: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    c: tl.tensor,
    rows_inside: tl.tensor,
    channels: tl.tensor,
) -> tl.tensor:
    """Load tokens of one image and head, ``(rows, BLOCK_D)``; zeros outside."""
    places = row.to(tl.int64) * stride_y + column.to(tl.int64) * stride_x
    return tl.load(tensor + places[:, None] + c, rows_inside[:, None] & (c < channels), other=0)


@triton.jit
def _sample(
    k: tl.tensor,
    v: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    exists: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    c: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Sample keys and values bilinearly at the positions, rounded to their dtype."""
    keys = tl.zeros((TOKENS, BLOCK_D), tl.float32)
    values = tl.zeros((TOKENS, BLOCK_D), tl.float32)
    for number in range(4):
        row, column, weight_x, weight_y, inside = _corner(x, y, number, exists, height, width)
        weight = (weight_x * weight_y)[:, None]
        keys += weight * _load(k, row, column, stride_y, stride_x, c, inside, channels)
        values += weight * _load(v, row, column, stride_y, stride_x, c, inside, channels)
    return keys.to(k.dtype.element_ty), values.to(v.dtype.element_ty)


@triton.jit
def _table(
    rel_pos: tl.tensor, size: tl.tensor, channels: tl.tensor, c: tl.tensor, dtype: tl.dtype
) -> tl.tensor:
    """Load a relative table, ``(ROWS, BLOCK_D)``, where it is used: shared memory is scarce."""
    row = tl.arange(0, ROWS)[:, None]
    there = (row < 2 * size - 1) & (c < channels)
    return tl.load(rel_pos + row * channels + c, there, other=0).to(dtype)


@triton.jit
def _logits(
    q: tl.tensor,
    keys: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    bias: tl.tensor,
    token: tl.tensor,
    exists: tl.tensor,
    head: tl.tensor,
    channels: tl.tensor,
    size: tl.tensor,
    scale: tl.tensor,
    c: tl.tensor,
) -> tl.tensor:
    """Compute the logits ``(TOKENS, TOKENS)``, minus infinity for missing keys."""
    key = tl.arange(0, SIDE)[None, :]
    table_h = _table(rel_pos_h, size, channels, c, q.dtype)
    table_w = _table(rel_pos_w, size, channels, c, q.dtype)
    # Negative for missing keys only.
    row_h = tl.maximum((token // SIDE)[:, None] - key + size - 1, 0)
    row_w = tl.maximum((token % SIDE)[:, None] - key + size - 1, 0)
    term_h = tl.gather(_dot(q, tl.trans(table_h)), row_h, 1)
    term_w = tl.gather(_dot(q, tl.trans(table_w)), row_w, 1)
    terms = tl.reshape(term_h[:, :, None] + term_w[:, None, :], (TOKENS, TOKENS))
    number = token // SIDE * size + token % SIDE
    places = (head * size * size + number[:, None]) * (size * size) + number[None, :]
    terms += tl.load(bias + places, exists[:, None] & exists[None, :], other=0)
    logits = _dot(q, tl.trans(keys)) * scale + terms
    return tl.where(exists[None, :], logits, float('-inf'))


@triton.jit
def _bounds(
    positions: tl.tensor, near: tl.tensor, length: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Return the first and last token along an axis that samples touch; last < first if none."""
    before = tl.floor(positions).to(tl.int32)
    first = tl.min(tl.where(near, tl.maximum(before, 0), length), 0)
    return first, tl.max(tl.where(near, tl.minimum(before + 1, length - 1), -1), 0)


@triton.jit
def _forward_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    grid: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    logsumexp: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    channels: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
    scale: tl.tensor,
    stride_b: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    stride_h: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> None:
    rows, columns = windows_y * size, windows_x * size
    image, head, token, exists, y, x = _program(height, width, heads, size, windows_y, windows_x)
    sample_x, sample_y, _ = _positions(
        grid, image, head, heads, y, x, exists, height, width, rows, columns
    )
    c = tl.arange(0, BLOCK_D)[None, :]
    start = image * stride_b + head * stride_h
    keys, values = _sample(
        k + start,
        v + start,
        sample_x,
        sample_y,
        exists,
        height,
        width,
        channels,
        stride_y,
        stride_x,
        c,
        BLOCK_D,
    )

    y, x = y - (rows - height) // 2, x - (columns - width) // 2
    inside = exists & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    query = _load(q + start, y, x, stride_y, stride_x, c, inside, channels)
    logits = _logits(
        query, keys, rel_pos_h, rel_pos_w, bias, token, exists, head, channels, size, scale, c
    )
    largest = tl.max(logits, 1)
    weights = tl.exp(logits - largest[:, None])
    total = tl.sum(weights, 1)
    result = _dot(weights.to(values.dtype), values) / total[:, None]

    places = ((image * height + y) * width + x) * heads + head
    tl.store(out + places[:, None] * channels + c, result, inside[:, None] & (c < channels))
    tl.store(logsumexp + places, largest + tl.log(total), inside)


@triton.jit
def _backward_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    grid: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    logsumexp: tl.tensor,
    grad_out: tl.tensor,
    grad_q: tl.tensor,
    grad_k: tl.tensor,
    grad_v: tl.tensor,
    grad_grid: tl.tensor,
    grad_rel_pos_h: tl.tensor,
    grad_rel_pos_w: tl.tensor,
    grad_bias: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    channels: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
    scale: tl.tensor,
    stride_b: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    stride_h: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> None:
    rows, columns = windows_y * size, windows_x * size
    image, head, token, exists, y, x = _program(height, width, heads, size, windows_y, windows_x)
    sample_x, sample_y, grid_places = _positions(
        grid, image, head, heads, y, x, exists, height, width, rows, columns
    )
    c = tl.arange(0, BLOCK_D)[None, :]
    start = image * stride_b + head * stride_h
    k, v = k + start, v + start
    keys, values = _sample(
        k, v, sample_x, sample_y, exists, height, width, channels, stride_y, stride_x, c, BLOCK_D
    )

    y, x = y - (rows - height) // 2, x - (columns - width) // 2
    inside = exists & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    query = _load(q + start, y, x, stride_y, stride_x, c, inside, channels)
    logits = _logits(
        query, keys, rel_pos_h, rel_pos_w, bias, token, exists, head, channels, size, scale, c
    )

    # Gradients of the logits; none for queries in the padding, whose output is cropped.
    token_places = ((image * height + y) * width + x) * heads + head
    query_places = token_places[:, None] * channels + c
    query_mask = inside[:, None] & (c < channels)
    total = tl.load(logsumexp + token_places, inside, other=0)
    weights = tl.where(inside[:, None], tl.exp(logits - total[:, None]), 0)
    grad = tl.load(grad_out + query_places, query_mask, other=0)
    mean = tl.sum(grad.to(tl.float32) * tl.load(out + query_places, query_mask, other=0), 1)
    grad_values = _dot(tl.trans(weights).to(grad.dtype), grad)
    grad_logits = weights * (_dot(grad, tl.trans(values)) - mean[:, None])
    bias_places = (head * TOKENS + token[:, None]) * TOKENS + token[None, :]
    # Missing keys get zeros: a mask on columns would prevent adding four values at a time.
    tl.atomic_add(grad_bias + bias_places, grad_logits, exists[:, None], sem='relaxed')
    low = grad_logits.to(query.dtype)

    # Relative terms: sum over the keys of a row, or of a column, then map to the tables' rows.
    sums = tl.reshape(grad_logits, (TOKENS, SIDE, SIDE))
    row = tl.arange(0, ROWS)
    key_h = (token // SIDE)[:, None] + size - 1 - row[None, :]
    key_w = (token % SIDE)[:, None] + size - 1 - row[None, :]
    grad_h = tl.gather(tl.sum(sums, 2), tl.minimum(tl.maximum(key_h, 0), SIDE - 1), 1)
    grad_w = tl.gather(tl.sum(sums, 1), tl.minimum(tl.maximum(key_w, 0), SIDE - 1), 1)
    grad_h = tl.where((key_h >= 0) & (key_h < size), grad_h, 0).to(query.dtype)
    grad_w = tl.where((key_w >= 0) & (key_w < size), grad_w, 0).to(query.dtype)
    grad_query = _dot(low, keys) * scale
    grad_query += _dot(grad_h, _table(rel_pos_h, size, channels, c, query.dtype))
    grad_query += _dot(grad_w, _table(rel_pos_w, size, channels, c, query.dtype))
    tl.store(grad_q + query_places, grad_query, query_mask)
    row_places = row[:, None] * channels + c
    there = (row[:, None] < 2 * size - 1) & (c < channels)
    tl.atomic_add(grad_rel_pos_h + row_places, _dot(tl.trans(grad_h), query), there, sem='relaxed')
    tl.atomic_add(grad_rel_pos_w + row_places, _dot(tl.trans(grad_w), query), there, sem='relaxed')
    grad_keys = _dot(tl.trans(low), query) * scale

    # The grid: how the sampled keys and values change along x and y.
    grad_x = tl.zeros((TOKENS,), tl.float32)
    grad_y = tl.zeros((TOKENS,), tl.float32)
    for number in range(4):
        corner_row, corner_column, weight_x, weight_y, near = _corner(
            sample_x, sample_y, number, exists, height, width
        )
        key = _load(k, corner_row, corner_column, stride_y, stride_x, c, near, channels)
        value = _load(v, corner_row, corner_column, stride_y, stride_x, c, near, channels)
        change = tl.sum(grad_keys * key + grad_values * value, 1)
        grad_x += (number % 2 * 2 - 1) * weight_y * change
        grad_y += (number // 2 * 2 - 1) * weight_x * change
    tl.store(grad_grid + grid_places, grad_x * 0.5 * (columns - 1), exists)
    tl.store(grad_grid + grid_places + 1, grad_y * 0.5 * (rows - 1), exists)

    # Keys and values: the sampled tokens are in a rectangle. For 64 of them at a time, a matrix
    # product sums over the window, so that each token is added to memory once, not four times per
    # sample.
    near = exists & (sample_x > -1) & (sample_x < width) & (sample_y > -1) & (sample_y < height)
    near_x, near_y = tl.where(near, sample_x, 0), tl.where(near, sample_y, 0)
    left, right = _bounds(near_x, near, width)
    top, bottom = _bounds(near_y, near, height)
    across = tl.maximum(right - left + 1, 1)
    grad_keys = grad_keys.to(query.dtype)
    grad_values = grad_values.to(query.dtype)
    for first in range(0, across * (bottom - top + 1), TOKENS):
        place_y, place_x = top + (first + token) // across, left + (first + token) % across
        share = tl.where(
            near[None, :] & (place_y <= bottom)[:, None],
            tl.maximum(1 - tl.abs(place_x[:, None] - near_x[None, :]), 0)
            * tl.maximum(1 - tl.abs(place_y[:, None] - near_y[None, :]), 0),
            0,
        )
        touched = (tl.max(share, 1) > 0)[:, None] & (c < channels)
        share = share.to(query.dtype)
        places = ((image * height + place_y) * width + place_x) * heads + head
        places = places[:, None] * channels + c
        tl.atomic_add(grad_k + places, _dot(share, grad_keys), touched, sem='relaxed')
        tl.atomic_add(grad_v + places, _dot(share, grad_values), touched, sem='relaxed')


@torch.library.custom_op(
    'mtp::rotated_window_attention', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin()
def rotated_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel; differentiable in every argument.

    Args:
        q, k, v: queries, keys and values ``(B, H, W, heads, d)`` of one dtype, ``d`` at most 128,
            or 64 in float32. They are copied only if their strides differ or channels are not
            contiguous.
        grid: sampling positions ``(B, heads, H', W', 2)`` of ``rotated_window_grid``, float32.
        rel_pos_h, rel_pos_w: relative tables ``(2 * s - 1, d)``, any dtype, ``s`` at most 8.
        bias: bias of the logits ``(heads, s * s, s * s)``, any dtype.

    Returns:
        tuple[Tensor, Tensor]: attention output ``(B, H, W, heads, d)``, and the log-sum-exp of each
        query's logits, ``(B, H, W, heads)`` float32.
    """
    out, logsumexp = _rotated_window_attention_fake(q, k, v, grid, rel_pos_h, rel_pos_w, bias)
    _launch(_forward_kernel, *_operands(q, k, v, grid, rel_pos_h, rel_pos_w, bias), out, logsumexp)
    return out, logsumexp


@rotated_window_attention.register_fake
def _rotated_window_attention_fake(q: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op(
    'mtp::rotated_window_attention_backward', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin(atomics=True)
def rotated_window_attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    bias: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of all operands of :func:`rotated_window_attention`."""
    operands = _operands(q, k, v, grid, rel_pos_h, rel_pos_w, bias)
    heads, size = q.shape[3], (rel_pos_h.shape[0] + 1) // 2
    grads = [
        q.new_empty(q.shape),
        q.new_zeros(q.shape, dtype=torch.float32),
        q.new_zeros(q.shape, dtype=torch.float32),
        torch.empty_like(operands[3]),
        *(q.new_zeros(rel_pos_h.shape, dtype=torch.float32) for _ in range(2)),
        q.new_zeros(heads, *4 * [SIDE.value], dtype=torch.float32),
    ]
    _launch(_backward_kernel, *operands, out, logsumexp, grad_out.contiguous(), *grads)
    grads[6] = grads[6][:, :size, :size, :size, :size].reshape(bias.shape)
    originals = q, k, v, grid, rel_pos_h, rel_pos_w, bias
    return tuple(g.to(t.dtype) for g, t in zip(grads, originals))  # type: ignore[return-value]  # of seven


@rotated_window_attention_backward.register_fake
def _backward_fake(*tensors: Tensor) -> tuple[Tensor, ...]:
    *operands, _out, _logsumexp, _grad_out = tensors
    return tuple(t.new_empty(t.shape) for t in operands)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return rotated_window_attention_backward(*ctx.saved_tensors, grad_out)


rotated_window_attention.register_autograd(_gradients, setup_context=_save)


def _operands(q: Tensor, k: Tensor, v: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
    """Prepare operands for the kernels: q, k, v with equal strides, the rest contiguous float32."""
    if not (q.stride() == k.stride() == v.stride() and q.stride(-1) == 1):
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    return q, k, v, *(t.float().contiguous() for t in tables)


def _launch(
    kernel: Any, q: Tensor, k: Tensor, v: Tensor, grid: Tensor, rel_pos_h: Tensor, *others: Tensor
) -> None:
    batch, height, width, heads, channels = q.shape
    size = (rel_pos_h.shape[0] + 1) // 2
    windows_y, windows_x = grid.shape[2] // size, grid.shape[3] // size
    programs = batch * windows_y * windows_x * heads
    if not programs:
        return
    block = _block(channels)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        kernel[(programs,)](
            q,
            k,
            v,
            grid,
            rel_pos_h,
            *others,
            height,
            width,
            heads,
            channels,
            size,
            windows_y,
            windows_x,
            channels**-0.5,
            *q.stride()[:4],
            BLOCK_D=block,
            num_warps=_warps(q.dtype, block),
            num_stages=1,
        )


def _block(channels: int) -> int:
    return max(32, triton.next_power_of_2(channels))


def _warps(dtype: torch.dtype, block: int) -> int:
    # Hopper's groups of 4 warps cannot share a 16-bit tile of 64 rows; otherwise registers decide.
    return 4 if dtype.itemsize == 2 and block <= 64 else 8


def compile_cases() -> Iterator[CompileCase]:
    """Yield every case that :func:`_launch` can pick."""
    like_q = ('q', 'k', 'v', 'out', 'grad_out', 'grad_q')
    like_grid = (
        'grid',
        'rel_pos_h',
        'rel_pos_w',
        'bias',
        'logsumexp',
        'grad_k',
        'grad_v',
        'grad_grid',
        'grad_rel_pos_h',
        'grad_rel_pos_w',
        'grad_bias',
    )
    for kernel in (_forward_kernel, _backward_kernel):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            types = {
                **dict.fromkeys(like_q, f'*{TRITON_NAMES[dtype]}'),
                **dict.fromkeys(like_grid, '*fp32'),
                'scale': 'fp32',
                'BLOCK_D': 'constexpr',
            }
            for block in (32, 64) if dtype == torch.float32 else (32, 64, 128):
                yield CompileCase(
                    kernel,
                    {name: types.get(name, 'i32') for name in kernel.arg_names},
                    {'BLOCK_D': block},
                    _warps(dtype, block),
                    num_stages=1,
                )
