"""Rotated varied-size window attention in one pass: kernels, operator, gradient.

A program takes one window of one head of one image, its tokens laid out as 8 x 8 whatever the
window's side, so that sums over the rows or columns of keys are sums over an axis.

What moves, per image of 448 px (28 x 28 tokens, 12 heads of 64 channels) in bfloat16: forward
5 MB (q, k, v, grid in; out, log-sum-exp out) against 174 MB of the paper's code in float32;
backward 21 MB, of which 9.6 MB is the float32 accumulation of the gradients of k and v, against
345 MB. Matrix products on the padded 64 x 64 tiles: 0.25 GFLOP forward, about 1 GFLOP backward.
"""
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.triton.common import TRITON_NAMES, CompileCase

MAX_WINDOW = 8
MAX_CHANNELS = 128

SIDE = tl.constexpr(8)
TOKENS = tl.constexpr(64)
ROWS = tl.constexpr(16)  # of a relative table, 2 * 8 - 1 at most


@triton.jit
def _program(height, width, heads, size, windows_y, windows_x):
    """Image, head, and each token of the window: its row, column and whether it exists."""
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
def _positions(grid, image, head, heads, y, x, exists, height, width, rows, columns):
    """Where in the grid each key is sampled, (x, y) in tokens, and its place in ``grid``."""
    place = (((image * heads + head) * rows + y) * columns + x) * 2
    sample_x = tl.load(grid + place, exists, other=-4)
    sample_y = tl.load(grid + place + 1, exists, other=-4)
    sample_x = (sample_x + 1) * 0.5 * (columns - 1) - (columns - width) // 2
    sample_y = (sample_y + 1) * 0.5 * (rows - 1) - (rows - height) // 2
    return sample_x, sample_y, place


@triton.jit
def _corner(x, y, DX: tl.constexpr, DY: tl.constexpr, exists, height, width):
    """A neighbour of each position: row, column, weights along x and y, whether in the grid."""
    corner_x, corner_y = tl.floor(x) + DX, tl.floor(y) + DY
    # Compared as floats: positions may be too far for an integer, or NaN, which compares false.
    inside = (exists & (corner_x >= 0) & (corner_x < width)
              & (corner_y >= 0) & (corner_y < height))
    weight_x = tl.where(inside, 1 - tl.abs(x - corner_x), 0)
    weight_y = tl.where(inside, 1 - tl.abs(y - corner_y), 0)
    column = tl.where(inside, corner_x, 0).to(tl.int32)
    row = tl.where(inside, corner_y, 0).to(tl.int32)
    return row, column, weight_x, weight_y, inside


@triton.jit
def _load(tensor, row, column, stride_y, stride_x, c, rows_inside, channels):
    """Tokens of one image and head, ``(rows, BLOCK_D)``; zeros where outside."""
    places = row.to(tl.int64) * stride_y + column.to(tl.int64) * stride_x
    return tl.load(tensor + places[:, None] + c, rows_inside[:, None] & (c < channels), other=0)


@triton.jit
def _sample(k, v, x, y, exists, height, width, channels, k_stride_y, k_stride_x, v_stride_y,
            v_stride_x, c, BLOCK_D: tl.constexpr):
    """Keys and values at the positions, bilinear, rounded to their dtype."""
    keys = tl.zeros((TOKENS, BLOCK_D), tl.float32)
    values = tl.zeros((TOKENS, BLOCK_D), tl.float32)
    for DY in tl.static_range(2):
        for DX in tl.static_range(2):
            row, column, weight_x, weight_y, inside = _corner(x, y, DX, DY, exists, height, width)
            weight = (weight_x * weight_y)[:, None]
            keys += weight * _load(k, row, column, k_stride_y, k_stride_x, c, inside, channels)
            values += weight * _load(v, row, column, v_stride_y, v_stride_x, c, inside, channels)
    return keys.to(k.dtype.element_ty), values.to(v.dtype.element_ty)


@triton.jit
def _table(rel_pos, size, channels, c):
    """A relative table, ``(ROWS, BLOCK_D)``."""
    row = tl.arange(0, ROWS)[:, None]
    return tl.load(rel_pos + row * channels + c, (row < 2 * size - 1) & (c < channels), other=0)


@triton.jit
def _bias_places(token, exists, head, size):
    """Where the bias of each query and key is, and whether it is."""
    number = token // SIDE * size + token % SIDE
    places = (head * size * size + number[:, None]) * (size * size) + number[None, :]
    return places, exists[:, None] & exists[None, :]


@triton.jit
def _logits(q, keys, table_h, table_w, bias, token, exists, head, size, scale):
    """``(TOKENS, TOKENS)``, minus infinity where there is no key."""
    key = tl.arange(0, SIDE)[None, :]
    row_h = (token // SIDE)[:, None] - key + size - 1
    row_w = (token % SIDE)[:, None] - key + size - 1
    term_h = tl.gather(tl.dot(q, tl.trans(table_h).to(q.dtype), input_precision='ieee'),
                       tl.minimum(tl.maximum(row_h, 0), ROWS - 1), 1)
    term_w = tl.gather(tl.dot(q, tl.trans(table_w).to(q.dtype), input_precision='ieee'),
                       tl.minimum(tl.maximum(row_w, 0), ROWS - 1), 1)
    terms = tl.reshape(term_h[:, :, None] + term_w[:, None, :], (TOKENS, TOKENS))
    places, there = _bias_places(token, exists, head, size)
    terms += tl.load(bias + places, there, other=0)
    logits = tl.dot(q, tl.trans(keys), input_precision='ieee') * scale + terms
    return tl.where(exists[None, :], logits, float('-inf'))


@triton.jit
def _forward_kernel(
        q, k, v, grid, rel_pos_h, rel_pos_w, bias, out, logsumexp,
        height, width, heads, channels, size, windows_y, windows_x, scale,
        q_stride_b, q_stride_y, q_stride_x, q_stride_h,
        k_stride_b, k_stride_y, k_stride_x, k_stride_h,
        v_stride_b, v_stride_y, v_stride_x, v_stride_h,
        BLOCK_D: tl.constexpr):
    rows, columns = windows_y * size, windows_x * size
    image, head, token, exists, y, x = _program(height, width, heads, size, windows_y, windows_x)
    sample_x, sample_y, _ = _positions(
        grid, image, head, heads, y, x, exists, height, width, rows, columns)
    c = tl.arange(0, BLOCK_D)[None, :]
    keys, values = _sample(
        k + image * k_stride_b + head * k_stride_h, v + image * v_stride_b + head * v_stride_h,
        sample_x, sample_y, exists, height, width, channels,
        k_stride_y, k_stride_x, v_stride_y, v_stride_x, c, BLOCK_D)

    y, x = y - (rows - height) // 2, x - (columns - width) // 2
    inside = exists & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    query = _load(q + image * q_stride_b + head * q_stride_h, y, x, q_stride_y, q_stride_x, c,
                  inside, channels)
    logits = _logits(query, keys, _table(rel_pos_h, size, channels, c),
                     _table(rel_pos_w, size, channels, c), bias, token, exists, head, size, scale)
    largest = tl.max(logits, 1)
    weights = tl.exp(logits - largest[:, None])
    total = tl.sum(weights, 1)
    result = tl.dot(weights.to(values.dtype), values, input_precision='ieee') / total[:, None]

    places = ((image * height + y) * width + x) * heads + head
    tl.store(out + places[:, None] * channels + c, result, inside[:, None] & (c < channels))
    tl.store(logsumexp + places, largest + tl.log(total), inside)


@triton.jit
def _backward_kernel(
        q, k, v, grid, rel_pos_h, rel_pos_w, bias, out, logsumexp, grad_out,
        grad_q, grad_k, grad_v, grad_grid, grad_rel_pos_h, grad_rel_pos_w, grad_bias,
        height, width, heads, channels, size, windows_y, windows_x, scale,
        q_stride_b, q_stride_y, q_stride_x, q_stride_h,
        k_stride_b, k_stride_y, k_stride_x, k_stride_h,
        v_stride_b, v_stride_y, v_stride_x, v_stride_h,
        BLOCK_D: tl.constexpr):
    rows, columns = windows_y * size, windows_x * size
    image, head, token, exists, y, x = _program(height, width, heads, size, windows_y, windows_x)
    sample_x, sample_y, grid_places = _positions(
        grid, image, head, heads, y, x, exists, height, width, rows, columns)
    c = tl.arange(0, BLOCK_D)[None, :]
    k += image * k_stride_b + head * k_stride_h
    v += image * v_stride_b + head * v_stride_h
    keys, values = _sample(k, v, sample_x, sample_y, exists, height, width, channels,
                           k_stride_y, k_stride_x, v_stride_y, v_stride_x, c, BLOCK_D)

    y, x = y - (rows - height) // 2, x - (columns - width) // 2
    inside = exists & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    query = _load(q + image * q_stride_b + head * q_stride_h, y, x, q_stride_y, q_stride_x, c,
                  inside, channels)
    table_h = _table(rel_pos_h, size, channels, c)
    table_w = _table(rel_pos_w, size, channels, c)
    logits = _logits(query, keys, table_h, table_w, bias, token, exists, head, size, scale)

    # Gradients of the logits; none for queries in the padding, whose output is cut away.
    token_places = ((image * height + y) * width + x) * heads + head
    query_places, query_mask = token_places[:, None] * channels + c, inside[:, None] & (c < channels)
    total = tl.load(logsumexp + token_places, inside, other=0)
    weights = tl.where(inside[:, None], tl.exp(logits - total[:, None]), 0)
    grad = tl.load(grad_out + query_places, query_mask, other=0)
    mean = tl.sum(grad.to(tl.float32) * tl.load(out + query_places, query_mask, other=0), 1)
    grad_values = tl.dot(tl.trans(weights).to(grad.dtype), grad, input_precision='ieee')
    grad_logits = weights * (tl.dot(grad, tl.trans(values), input_precision='ieee')
                             - mean[:, None])
    bias_places, there = _bias_places(token, exists, head, size)
    tl.atomic_add(grad_bias + bias_places, grad_logits, there, sem='relaxed')
    low = grad_logits.to(query.dtype)
    grad_keys = tl.dot(tl.trans(low), query, input_precision='ieee') * scale
    grad_query = tl.dot(low, keys, input_precision='ieee') * scale

    # Relative terms: sum over the keys of a row, or of a column, then to the tables' rows.
    sums = tl.reshape(grad_logits, (TOKENS, SIDE, SIDE))
    row = tl.arange(0, ROWS)
    key_h = (token // SIDE)[:, None] + size - 1 - row[None, :]
    key_w = (token % SIDE)[:, None] + size - 1 - row[None, :]
    grad_h = tl.gather(tl.sum(sums, 2), tl.minimum(tl.maximum(key_h, 0), SIDE - 1), 1)
    grad_w = tl.gather(tl.sum(sums, 1), tl.minimum(tl.maximum(key_w, 0), SIDE - 1), 1)
    grad_h = tl.where((key_h >= 0) & (key_h < size), grad_h, 0).to(query.dtype)
    grad_w = tl.where((key_w >= 0) & (key_w < size), grad_w, 0).to(query.dtype)
    grad_query += tl.dot(grad_h, table_h.to(query.dtype), input_precision='ieee')
    grad_query += tl.dot(grad_w, table_w.to(query.dtype), input_precision='ieee')
    tl.store(grad_q + query_places, grad_query, query_mask)
    table_places, table_mask = row[:, None] * channels + c, (row[:, None] < 2 * size - 1) & (
        c < channels)
    tl.atomic_add(grad_rel_pos_h + table_places,
                  tl.dot(tl.trans(grad_h), query, input_precision='ieee'), table_mask,
                  sem='relaxed')
    tl.atomic_add(grad_rel_pos_w + table_places,
                  tl.dot(tl.trans(grad_w), query, input_precision='ieee'), table_mask,
                  sem='relaxed')

    # The grid: how the sampled keys and values change along x and y.
    grad_x = tl.zeros((TOKENS,), tl.float32)
    grad_y = tl.zeros((TOKENS,), tl.float32)
    for DY in tl.static_range(2):
        for DX in tl.static_range(2):
            corner_row, corner_column, weight_x, weight_y, near = _corner(
                sample_x, sample_y, DX, DY, exists, height, width)
            change = tl.sum(
                grad_keys * _load(k, corner_row, corner_column, k_stride_y, k_stride_x, c, near,
                                  channels)
                + grad_values * _load(v, corner_row, corner_column, v_stride_y, v_stride_x, c,
                                      near, channels), 1)
            grad_x += (2 * DX - 1) * weight_y * change
            grad_y += (2 * DY - 1) * weight_x * change
    tl.store(grad_grid + grid_places, grad_x * 0.5 * (columns - 1), exists)
    tl.store(grad_grid + grid_places + 1, grad_y * 0.5 * (rows - 1), exists)

    # Keys and values: the tokens that were sampled lie in a rectangle; 64 of them at a time are
    # summed over the window by a matrix product, so each is added to memory once and not four
    # times per sample.
    near = (exists & (sample_x > -1) & (sample_x < width) & (sample_y > -1) & (sample_y < height))
    near_x, near_y = tl.where(near, sample_x, 0), tl.where(near, sample_y, 0)
    left = tl.maximum(tl.min(tl.where(near, tl.floor(near_x).to(tl.int32), width), 0), 0)
    right = tl.minimum(tl.max(tl.where(near, tl.floor(near_x).to(tl.int32) + 1, -1), 0), width - 1)
    top = tl.maximum(tl.min(tl.where(near, tl.floor(near_y).to(tl.int32), height), 0), 0)
    bottom = tl.minimum(tl.max(tl.where(near, tl.floor(near_y).to(tl.int32) + 1, -1), 0),
                        height - 1)
    across = tl.maximum(right - left + 1, 1)
    grad_keys = grad_keys.to(query.dtype)
    grad_values = grad_values.to(query.dtype)
    for start in range(0, across * (bottom - top + 1), TOKENS):
        place_y, place_x = top + (start + token) // across, left + (start + token) % across
        share = tl.where(
            near[None, :] & (place_y <= bottom)[:, None],
            tl.maximum(1 - tl.abs(place_x[:, None] - near_x[None, :]), 0)
            * tl.maximum(1 - tl.abs(place_y[:, None] - near_y[None, :]), 0), 0)
        touched = (tl.max(share, 1) > 0)[:, None] & (c < channels)
        share = share.to(query.dtype)
        places = ((image * height + place_y) * width + place_x) * heads + head
        places = places[:, None] * channels + c
        tl.atomic_add(grad_k + places, tl.dot(share, grad_keys, input_precision='ieee'), touched,
                      sem='relaxed')
        tl.atomic_add(grad_v + places, tl.dot(share, grad_values, input_precision='ieee'),
                      touched, sem='relaxed')


@torch.library.custom_op('mtp::rotated_window_attention', mutates_args=(),
                         device_types=('cuda', 'cpu'))
def rotated_window_attention(q: Tensor, k: Tensor, v: Tensor, grid: Tensor, rel_pos_h: Tensor,
                             rel_pos_w: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Forward kernel; differentiable in every argument.

    The gradients of k, v, the tables and the bias are summed by atomic additions: their last
    bits depend on the order in which programs run.

    Args:
        q, k, v: ``(B, H, W, heads, d)`` of one dtype, any strides, ``d`` at most 128; not copied
            where the channels lie side by side.
        grid: ``(B, heads, H', W', 2)`` float32, as of ``rotated_window_grid``.
        rel_pos_h, rel_pos_w: ``(2 * s - 1, d)``, any dtype, ``s`` at most 8.
        bias: ``(heads, s * s, s * s)``, any dtype.

    Returns:
        tuple[Tensor, Tensor]: ``(B, H, W, heads, d)``, and the log-sum-exp of each query's
        logits, ``(B, H, W, heads)`` float32.
    """
    out, logsumexp = _rotated_window_attention_fake(q, k, v, grid, rel_pos_h, rel_pos_w, bias)
    operands = _operands(q, k, v, grid, rel_pos_h, rel_pos_w, bias)
    _launch(_forward_kernel, *operands, out, logsumexp)
    return out, logsumexp


@rotated_window_attention.register_fake
def _rotated_window_attention_fake(q, k, v, grid, rel_pos_h, rel_pos_w, bias):
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op('mtp::rotated_window_attention_backward', mutates_args=(),
                         device_types=('cuda', 'cpu'))
def _backward(q: Tensor, k: Tensor, v: Tensor, grid: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor,
              bias: Tensor, out: Tensor, logsumexp: Tensor, grad_out: Tensor
              ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    operands = _operands(q, k, v, grid, rel_pos_h, rel_pos_w, bias)
    wide = {'dtype': torch.float32}
    grads = (q.new_empty(q.shape), q.new_zeros(q.shape, **wide), q.new_zeros(q.shape, **wide),
             torch.empty_like(operands[3]), *(torch.zeros_like(o) for o in operands[4:]))
    _launch(_backward_kernel, *operands, out, logsumexp, grad_out.contiguous(), *grads)
    return tuple(g.to(t.dtype) for g, t in zip(grads, (q, k, v, grid, rel_pos_h, rel_pos_w, bias)))


@_backward.register_fake
def _backward_fake(q, k, v, grid, rel_pos_h, rel_pos_w, bias, out, logsumexp, grad_out):
    return tuple(t.new_empty(t.shape) for t in (q, k, v, grid, rel_pos_h, rel_pos_w, bias))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx, grad_out, _):
    return _backward(*ctx.saved_tensors, grad_out)


rotated_window_attention.register_autograd(_gradients, setup_context=_save)


def _operands(q, k, v, *tables: Tensor) -> tuple[Tensor, ...]:
    """As the kernels take them: channels side by side, all but q, k, v in float32."""
    return (*(t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v)),
            *(t.float().contiguous() for t in tables))


def _launch(kernel, q: Tensor, k: Tensor, v: Tensor, grid: Tensor, rel_pos_h: Tensor,
            *others: Tensor) -> None:
    batch, height, width, heads, channels = q.shape
    size = (rel_pos_h.shape[0] + 1) // 2
    windows_y, windows_x = grid.shape[2] // size, grid.shape[3] // size
    programs = batch * windows_y * windows_x * heads
    if not programs:
        return
    block = _block(channels)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        kernel[(programs,)](
            q, k, v, grid, rel_pos_h, *others, height, width, heads, channels, size, windows_y,
            windows_x, channels**-0.5, *q.stride()[:4], *k.stride()[:4], *v.stride()[:4],
            BLOCK_D=block, num_warps=_warps(kernel, q.dtype, block), num_stages=1)


def _block(channels: int) -> int:
    return max(32, triton.next_power_of_2(channels))


def _warps(kernel, dtype: torch.dtype, block: int) -> int:
    return 8


def compile_cases() -> Iterator[CompileCase]:
    """Every case that :func:`_launch` can pick."""
    like_q = ('q', 'k', 'v', 'out', 'grad_out', 'grad_q')
    like_grid = ('grid', 'rel_pos_h', 'rel_pos_w', 'bias', 'logsumexp', 'grad_k', 'grad_v',
                 'grad_grid', 'grad_rel_pos_h', 'grad_rel_pos_w', 'grad_bias')
    for kernel in (_forward_kernel, _backward_kernel):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            types = {**dict.fromkeys(like_q, f'*{TRITON_NAMES[dtype]}'),
                     **dict.fromkeys(like_grid, '*fp32'), 'scale': 'fp32', 'BLOCK_D': 'constexpr'}
            for block in (32, 64, 128):
                yield CompileCase(
                    kernel, {name: types.get(name, 'i32') for name in kernel.arg_names},
                    {'BLOCK_D': block}, _warps(kernel, dtype, block), num_stages=1)
