"""Rotated varied-size window attention in one pass: kernels, operator, gradient.

A program takes one window of one head of one image, and computes itself where it samples. Its
tokens are laid out as 8 x 8, whatever the window's side, so that sums over the rows or columns of
keys are sums over an axis.

Memory traffic per image of 448 px (28 x 28 tokens, 12 heads of 64 channels) in bfloat16: the
forward pass moves 5 MB (q, k, v in; out, log-sum-exp out), the paper's code in float32 174 MB. The
backward pass moves 21 MB, 12 of them for the gradients of k and v in float32 (zeroed, summed,
rounded), the paper's code 345 MB. Products of the 64 x 64 tiles take 0.25 GFLOP forward and about 1
GFLOP backward. Launches: 1 forward; 3 backward, which zero the sums, fill them, and round them.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase, contiguous, dot, save_attention

SIDE = tl.constexpr(8)
TOKENS = tl.constexpr(64)
ROWS = tl.constexpr(16)  # of a relative table, padded: it has 2 * 8 - 1 at most


@triton.jit
def _program(
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Return the image, head and window, and each token's index, existence, and row and column on
    the grid, outside it in the padding."""
    program = tl.program_id(0)
    head = program % heads
    window = program // heads % (windows_y * windows_x)
    image = (program // heads // (windows_y * windows_x)).to(tl.int64)
    token = tl.arange(0, TOKENS)
    exists = (token // SIDE < size) & (token % SIDE < size)
    y = window // windows_x * size + token // SIDE - (windows_y * size - height) // 2
    x = window % windows_x * size + token % SIDE - (windows_x * size - width) // 2
    return image, head, window, token, exists, y, x


@triton.jit
def _transform(
    offsets: tl.tensor,
    scales: tl.tensor,
    angles: tl.tensor,
    image: tl.tensor,
    head: tl.tensor,
    heads: tl.tensor,
    window: tl.tensor,
    windows: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Load the transform of this program's window: offset and scale along x and y, cosine, sine."""
    place = image * heads + head
    angle = tl.load(angles + place * windows + window).to(tl.float32)
    x, y = place * 2 * windows + window, (place * 2 + 1) * windows + window
    return (
        tl.load(offsets + x).to(tl.float32),
        tl.load(offsets + y).to(tl.float32),
        1 + tl.load(scales + x).to(tl.float32),
        1 + tl.load(scales + y).to(tl.float32),
        tl.cos(angle),
        tl.sin(angle),
    )


@triton.jit
def _positions(
    offset_x: tl.tensor,
    offset_y: tl.tensor,
    scale_x: tl.tensor,
    scale_y: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    ratio: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    token: tl.tensor,
    size: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Return where each key is sampled, (x, y) in tokens of the grid, and its scaled place (x, y)
    in the window.

    ``rotated_window_grid`` in tokens. A rotation is rigid in its units, of which one along x has
    ``ratio`` times the tokens of one along y.
    """
    middle = (size - 1) * 0.5
    local_x, local_y = token % SIDE - middle, token // SIDE - middle
    scaled_x, scaled_y = local_x * scale_x, local_y * scale_y
    sample_x = x - local_x + offset_x + scaled_x * cos - scaled_y * sin * ratio
    sample_y = y - local_y + offset_y + scaled_x * sin / ratio + scaled_y * cos
    return sample_x, sample_y, scaled_x, scaled_y


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
    term_h = tl.gather(dot(q, tl.trans(table_h)), row_h, 1)
    term_w = tl.gather(dot(q, tl.trans(table_w)), row_w, 1)
    terms = tl.reshape(term_h[:, :, None] + term_w[:, None, :], (TOKENS, TOKENS))
    number = token // SIDE * size + token % SIDE
    places = (head * size * size + number[:, None]) * (size * size) + number[None, :]
    terms += tl.load(bias + places, exists[:, None] & exists[None, :], other=0)
    logits = dot(q, tl.trans(keys)) * scale + terms
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
    qkv: tl.tensor,
    offsets: tl.tensor,
    scales: tl.tensor,
    angles: tl.tensor,
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
    unit_x: tl.tensor,
    unit_y: tl.tensor,
    stride_b: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    stride_part: tl.tensor,
    stride_h: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> None:
    image, head, window, token, exists, y, x = _program(
        height, width, heads, size, windows_y, windows_x
    )
    offset_x, offset_y, scale_x, scale_y, cos, sin = _transform(
        offsets, scales, angles, image, head, heads, window, windows_y * windows_x
    )
    ratio = (windows_x * size - 1) / (windows_y * size - 1)
    sample_x, sample_y, _, _ = _positions(
        offset_x * unit_x,
        offset_y * unit_y,
        scale_x,
        scale_y,
        cos,
        sin,
        ratio,
        x,
        y,
        token,
        size,
    )
    c = tl.arange(0, BLOCK_D)[None, :]
    q = qkv + image * stride_b + head * stride_h
    keys, values = _sample(
        q + stride_part,
        q + 2 * stride_part,
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

    inside = exists & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    query = _load(q, y, x, stride_y, stride_x, c, inside, channels)
    logits = _logits(
        query, keys, rel_pos_h, rel_pos_w, bias, token, exists, head, channels, size, scale, c
    )
    largest = tl.max(logits, 1)
    weights = tl.exp(logits - largest[:, None])
    total = tl.sum(weights, 1)
    result = dot(weights.to(values.dtype), values) / total[:, None]

    places = ((image * height + y) * width + x) * heads + head
    tl.store(out + places[:, None] * channels + c, result, inside[:, None] & (c < channels))
    tl.store(logsumexp + places, largest + tl.log(total), inside)


@triton.jit
def _backward_kernel(
    qkv: tl.tensor,
    offsets: tl.tensor,
    scales: tl.tensor,
    angles: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    logsumexp: tl.tensor,
    grad_out: tl.tensor,
    grad_qkv: tl.tensor,
    grad_offsets: tl.tensor,
    grad_scales: tl.tensor,
    grad_angles: tl.tensor,
    sums_bias: tl.tensor,
    sums_tables: tl.tensor,
    sums_kv: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    channels: tl.tensor,
    size: tl.tensor,
    windows_y: tl.tensor,
    windows_x: tl.tensor,
    scale: tl.tensor,
    unit_x: tl.tensor,
    unit_y: tl.tensor,
    stride_b: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    stride_part: tl.tensor,
    stride_h: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> None:
    image, head, window, token, exists, y, x = _program(
        height, width, heads, size, windows_y, windows_x
    )
    offset_x, offset_y, scale_x, scale_y, cos, sin = _transform(
        offsets, scales, angles, image, head, heads, window, windows_y * windows_x
    )
    ratio = (windows_x * size - 1) / (windows_y * size - 1)
    sample_x, sample_y, scaled_x, scaled_y = _positions(
        offset_x * unit_x,
        offset_y * unit_y,
        scale_x,
        scale_y,
        cos,
        sin,
        ratio,
        x,
        y,
        token,
        size,
    )
    c = tl.arange(0, BLOCK_D)[None, :]
    q = qkv + image * stride_b + head * stride_h
    k, v = q + stride_part, q + 2 * stride_part
    keys, values = _sample(
        k, v, sample_x, sample_y, exists, height, width, channels, stride_y, stride_x, c, BLOCK_D
    )

    inside = exists & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    query = _load(q, y, x, stride_y, stride_x, c, inside, channels)
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
    grad_values = dot(tl.trans(weights).to(grad.dtype), grad)
    grad_logits = weights * (dot(grad, tl.trans(values)) - mean[:, None])
    bias_places = (head * TOKENS + token[:, None]) * TOKENS + token[None, :]
    # Missing keys get zeros: a mask on columns would prevent adding four values at a time.
    tl.atomic_add(sums_bias + bias_places, grad_logits, exists[:, None], sem='relaxed')
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
    grad_query = dot(low, keys) * scale
    grad_query += dot(grad_h, _table(rel_pos_h, size, channels, c, query.dtype))
    grad_query += dot(grad_w, _table(rel_pos_w, size, channels, c, query.dtype))
    token_places = (image * height + y) * width + x
    grad_places = (token_places * 3 * heads + head)[:, None] * channels + c
    tl.store(grad_qkv + grad_places, grad_query, query_mask)
    row_places = row[:, None] * channels + c
    there = (row[:, None] < 2 * size - 1) & (c < channels)
    tl.atomic_add(sums_tables + row_places, dot(tl.trans(grad_h), query), there, sem='relaxed')
    row_places += (2 * size - 1) * channels
    tl.atomic_add(sums_tables + row_places, dot(tl.trans(grad_w), query), there, sem='relaxed')
    grad_keys = dot(tl.trans(low), query) * scale

    # The transform: how the sampled keys and values change along x and y, and these with it.
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
    middle = (size - 1) * 0.5
    local_x, local_y = token % SIDE - middle, token // SIDE - middle
    windows = windows_y * windows_x
    place = (image * heads + head) * windows + window
    turned = grad_x * (-scaled_x * sin - scaled_y * cos * ratio)
    turned += grad_y * (scaled_x * cos / ratio - scaled_y * sin)
    tl.store(grad_angles + place, tl.sum(turned, 0))
    place = (image * heads + head) * 2 * windows + window
    tl.store(grad_offsets + place, tl.sum(grad_x, 0) * unit_x)
    tl.store(grad_offsets + place + windows, tl.sum(grad_y, 0) * unit_y)
    stretched_x = local_x * (grad_x * cos + grad_y * sin / ratio)
    stretched_y = local_y * (grad_y * cos - grad_x * sin * ratio)
    tl.store(grad_scales + place, tl.sum(stretched_x, 0))
    tl.store(grad_scales + place + windows, tl.sum(stretched_y, 0))

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
        places = ((image * height + place_y) * width + place_x) * 2 * heads + head
        places = places[:, None] * channels + c
        tl.atomic_add(sums_kv + places, dot(share, grad_keys), touched, sem='relaxed')
        places += heads * channels
        tl.atomic_add(sums_kv + places, dot(share, grad_values), touched, sem='relaxed')


@triton.jit
def _round_keys_and_values(
    sums: tl.tensor, grad_qkv: tl.tensor, token: tl.tensor, part: tl.tensor, BLOCK_KV: tl.constexpr
) -> None:
    lane = tl.arange(0, BLOCK_KV)
    token = token.to(tl.int64)
    value = tl.load(sums + token * 2 * part + lane, lane < 2 * part)
    tl.store(grad_qkv + (token * 3 + 1) * part + lane, value, lane < 2 * part)


@triton.jit
def _round_bias(sums: tl.tensor, grad_bias: tl.tensor, head: tl.tensor, size: tl.tensor) -> None:
    token = tl.arange(0, TOKENS)
    exists = (token // SIDE < size) & (token % SIDE < size)
    number = token // SIDE * size + token % SIDE
    query = head * size * size + number[:, None]
    value = tl.load(sums + (head * TOKENS + token[:, None]) * TOKENS + token[None, :])
    there = exists[:, None] & exists[None, :]
    tl.store(grad_bias + query * size * size + number[None, :], value, there)


@triton.jit
def _round_table(
    sums: tl.tensor,
    grad_table: tl.tensor,
    channels: tl.tensor,
    size: tl.tensor,
    BLOCK_D: tl.constexpr,
) -> None:
    row, c = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK_D)[None, :]
    there = (row < 2 * size - 1) & (c < channels)
    tl.store(grad_table + row * channels + c, tl.load(sums + row * channels + c, there), there)


@triton.jit
def _round_kernel(
    sums_bias: tl.tensor,
    sums_tables: tl.tensor,
    sums_kv: tl.tensor,
    grad_qkv: tl.tensor,
    grad_rel_pos_h: tl.tensor,
    grad_rel_pos_w: tl.tensor,
    grad_bias: tl.tensor,
    tokens: tl.tensor,
    heads: tl.tensor,
    channels: tl.tensor,
    size: tl.tensor,
    BLOCK_D: tl.constexpr,
    BLOCK_KV: tl.constexpr,
) -> None:
    """Round the sums to the dtypes of the gradients: a program for each token, head, and table."""
    program = tl.program_id(0)
    if program < tokens:
        _round_keys_and_values(sums_kv, grad_qkv, program, heads * channels, BLOCK_KV)
    elif program < tokens + heads:
        _round_bias(sums_bias, grad_bias, program - tokens, size)
    else:
        _round_table(sums_tables, grad_rel_pos_h, channels, size, BLOCK_D)
        second = sums_tables + (2 * size - 1) * channels
        _round_table(second, grad_rel_pos_w, channels, size, BLOCK_D)


@torch.library.custom_op(
    'mtp::rotated_window_attention', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin()
def rotated_window_attention(
    qkv: Tensor,
    offsets: Tensor,
    scales: Tensor,
    angles: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel; differentiable in every argument.

    Args:
        qkv: queries, keys and values ``(B, H, W, 3, heads, d)``, ``d`` at most 128, or 64 in
            float32. They are copied only if channels are not contiguous.
        offsets, scales, angles: transforms of the windows, any dtypes.
        rel_pos_h, rel_pos_w: relative tables ``(2 * s - 1, d)``, any dtypes, ``s`` at most 8.
        bias: bias of the logits ``(heads, s * s, s * s)``, any dtype.

    Returns:
        tuple[Tensor, Tensor]: attention output ``(B, H, W, heads, d)``, and the log-sum-exp of each
        query's logits, ``(B, H, W, heads)`` float32.
    """
    out, logsumexp = _fake(qkv)
    operands = offsets, scales, angles, rel_pos_h, rel_pos_w, bias
    _launch(_forward_kernel, _along_channels(qkv), *contiguous(*operands), out, logsumexp)
    return out, logsumexp


@rotated_window_attention.register_fake
def _fake(qkv: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    batch, height, width, _three, heads, channels = qkv.shape
    return (
        qkv.new_empty(batch, height, width, heads, channels),
        qkv.new_empty(batch, height, width, heads, dtype=torch.float32),
    )


@torch.library.custom_op(
    'mtp::rotated_window_attention_backward', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin(atomics=True)
def rotated_window_attention_backward(
    qkv: Tensor,
    offsets: Tensor,
    scales: Tensor,
    angles: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    bias: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of all operands of :func:`rotated_window_attention`."""
    operands = offsets, scales, angles, rel_pos_h, rel_pos_w, bias
    grads = _backward_fake(qkv, *operands)
    grad_qkv, *grads_transform, grad_h, grad_w, grad_bias = grads
    batch, height, width, _, heads, channels = qkv.shape
    tokens, size = batch * height * width, (rel_pos_h.shape[0] + 1) // 2
    # one buffer: clearing it is one launch
    lengths = heads * TOKENS.value**2, 2 * rel_pos_h.numel(), 2 * tokens * heads * channels
    padded = [-(-length // 4) * 4 for length in lengths]  # for additions of four floats
    sums = qkv.new_zeros(sum(padded), dtype=torch.float32).split(padded)
    _launch(
        _backward_kernel,
        _along_channels(qkv),
        *contiguous(*operands),
        out,
        logsumexp,
        grad_out.contiguous(),
        grad_qkv,
        *grads_transform,
        *sums,
    )
    with torch.cuda.device_of(qkv):
        _round_kernel[(tokens + heads + 1,)](
            *sums,
            grad_qkv,
            grad_h,
            grad_w,
            grad_bias,
            tokens,
            heads,
            channels,
            size,
            BLOCK_D=_block(channels),
            BLOCK_KV=triton.next_power_of_2(2 * heads * channels),
            num_warps=4,
        )
    return grads


@rotated_window_attention_backward.register_fake
def _backward_fake(
    *tensors: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in tensors[:7])  # type: ignore[return-value]  # of seven


def _gradients(ctx: Any, grad_out: Tensor, _: None) -> tuple[Tensor, ...]:
    return rotated_window_attention_backward(*ctx.saved_tensors, grad_out)


rotated_window_attention.register_autograd(_gradients, setup_context=save_attention)


def _along_channels(qkv: Tensor) -> Tensor:
    return qkv if qkv.stride(-1) == 1 else qkv.contiguous()


def _launch(
    kernel: Any,
    qkv: Tensor,
    offsets: Tensor,
    scales: Tensor,
    angles: Tensor,
    rel_pos_h: Tensor,
    *others: Tensor,
) -> None:
    batch, height, width, _, heads, channels = qkv.shape
    size = (rel_pos_h.shape[0] + 1) // 2
    windows_y, windows_x = angles.shape[2:]
    programs = batch * windows_y * windows_x * heads
    if not programs:
        return
    block = _block(channels)
    with torch.cuda.device_of(qkv):  # Triton launches on the current device
        kernel[(programs,)](
            qkv,
            offsets,
            scales,
            angles,
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
            # tokens that an offset of 1 shifts by, see rotated_window_grid
            (windows_x * size - 1) / (2 * max(1, height // size)),
            (windows_y * size - 1) / (2 * max(1, width // size)),
            *qkv.stride()[:5],
            BLOCK_D=block,
            num_warps=_warps(qkv.dtype, block),
            num_stages=1,
        )


def _block(channels: int) -> int:
    return max(32, triton.next_power_of_2(channels))


def _warps(dtype: torch.dtype, block: int) -> int:
    # Hopper's groups of 4 warps cannot share a 16-bit tile of 64 rows; otherwise registers decide.
    return 4 if dtype.itemsize == 2 and block <= 64 else 8


def compile_cases() -> Iterator[CompileCase]:
    """Yield every case that the launches can pick for operands as under autocast, and for
    parameters in the dtype of activations."""
    like_qkv = 'qkv', 'out', 'grad_out', 'grad_qkv'
    parameters = 'rel_pos_h', 'rel_pos_w', 'bias'
    transforms = 'offsets', 'scales', 'angles'
    like_float32 = (
        'logsumexp',
        *transforms,
        *(f'grad_{name}' for name in transforms),
        *(f'sums_{name}' for name in ('bias', 'tables', 'kv')),
    )
    for kernel in (_forward_kernel, _backward_kernel, _round_kernel):
        for dtype, dtype_parameters in (
            (torch.float32, torch.float32),
            (torch.bfloat16, torch.float32),
            (torch.float16, torch.float16),
        ):
            names = (*parameters, *(f'grad_{name}' for name in parameters))
            types = {
                **dict.fromkeys(like_float32, '*fp32'),
                **dict.fromkeys(like_qkv, f'*{TRITON_NAMES[dtype]}'),
                **dict.fromkeys(names, f'*{TRITON_NAMES[dtype_parameters]}'),
                **dict.fromkeys(('scale', 'unit_x', 'unit_y'), 'fp32'),
            }
            for block in (32, 64) if dtype == torch.float32 else (32, 64, 128):
                constants = {'BLOCK_D': block}
                if kernel is _round_kernel:
                    constants['BLOCK_KV'] = 32 * block  # 16 heads
                yield CompileCase(
                    kernel,
                    {name: types.get(name, 'i32') for name in kernel.arg_names}
                    | dict.fromkeys(constants, 'constexpr'),
                    constants,
                    4 if kernel is _round_kernel else _warps(dtype, block),
                    num_stages=1,
                )
