"""Full attention with decomposed relative positions in one pass: kernels, operator, gradient.

A tile of keys is a piece of some rows of the grid: 64 places, 16, 32 or 64 of them in a row, so
that for all tiles below each other the terms of the columns are the same, and those of the rows are
a few numbers a query. So the terms cost no products in the loops over tiles, and no place in them
is computed by a division. A grid 28 tokens wide fills 28 of 32 columns.

The terms come from products of queries and whole tables, and are stored where their keys are: those
of the columns query by query, those of the rows row by row. Their gradients are stored alike, those
of the rows for each piece of the grid's width. A program reads what it has stored itself behind a
barrier. The backward pass computes the terms again, which costs less than keeping them.

Launches: 1 forward; 4 backward, which compute the gradients of the queries, of the keys and values,
and of the tables, for each head, and add up the last. Nothing is added to memory by two programs,
so that results are the same bits in every run. Products of an image of ViT-B at 448 px (28 x 28
tokens, 12 heads of 64 channels): 2.3 GFLOP forward and 7.9 backward, where five products in place
of seven would need additions in memory. Beside its operands and results it moves the terms, 1 MB.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase, dot

TILE = tl.constexpr(64)  # queries or keys at a time
ROWS = tl.constexpr(32)  # of a relative table at a time
SPAN = tl.constexpr(1024)  # queries that a program sums over for the gradients of the tables
LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _program(
    tiles: tl.tensor, tokens: tl.tensor, heads: tl.tensor, CHANNELS: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """Return the number of this program's tile, that of its head among those of all images, and
    where the head's queries start in tensors with keys and values, and in those without."""
    head = (tl.program_id(0) // tiles).to(tl.int64)
    image, number = head // heads, head % heads
    first = image * tokens * heads
    tile = tl.program_id(0) % tiles
    return tile, head, (3 * first + number) * CHANNELS, (first + number) * CHANNELS


@triton.jit
def _load(
    tensor: tl.tensor,
    row: tl.tensor,
    there: tl.tensor,
    stride: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> tl.tensor:
    """Load rows of a matrix, ``(TILE, BLOCK_D)``; zeros for those that are not there."""
    c = tl.arange(0, BLOCK_D)[None, :]
    return tl.load(tensor + row[:, None] * stride + c, there[:, None] & (c < CHANNELS), other=0)


@triton.jit
def _store(
    tensor: tl.tensor,
    row: tl.tensor,
    there: tl.tensor,
    stride: tl.tensor,
    value: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    c = tl.arange(0, BLOCK_D)[None, :]
    tl.store(tensor + row[:, None] * stride + c, value, there[:, None] & (c < CHANNELS))


@triton.jit
def _table(
    rel_pos: tl.tensor,
    first: tl.tensor,
    side: tl.tensor,
    dtype: tl.dtype,
    CHANNELS: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return ascending offsets from query to key along an axis, and the table's rows of these."""
    offset = first + tl.arange(0, ROWS) - (side - 1)
    row = side - 1 - offset
    return offset, _load(rel_pos, row, row >= 0, CHANNELS, CHANNELS, BLOCK_D).to(dtype)


@triton.jit
def _column_places(
    n: tl.tensor, offset: tl.tensor, tokens: tl.tensor, width: tl.tensor, BLOCK_W: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return where the terms of queries and column offsets are, and whether they exist."""
    key = (n % width)[:, None] + offset[None, :]
    there = (n < tokens)[:, None] & (key >= 0) & (key < width)
    return n[:, None] * tl.cdiv(width, BLOCK_W) * BLOCK_W + key, there


@triton.jit
def _row_places(
    n: tl.tensor, offset: tl.tensor, height: tl.tensor, width: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Return where the terms of row offsets and queries are, and whether they exist."""
    key = (n // width)[None, :] + offset[:, None]
    there = (n < height * width)[None, :] & (key >= 0) & (key < height)
    return key * height * width + n[None, :], there


@triton.jit
def _store_terms(
    query: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    columns: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Store the terms of queries, zeros for missing columns, and let this program read them."""
    tokens, padded = height * width, tl.cdiv(width, BLOCK_W) * BLOCK_W
    for first in range(0, 2 * width - 1, ROWS):
        offset, table = _table(rel_pos_w, first, width, query.dtype, CHANNELS, BLOCK_D)
        places, there = _column_places(n, offset, tokens, width, BLOCK_W)
        tl.store(columns + places, dot(query, tl.trans(table)), there)
    missing = width + tl.arange(0, BLOCK_W)[None, :]
    nothing = (n < tokens)[:, None] & (missing < padded)
    tl.store(columns + n[:, None] * padded + missing, 0, nothing)
    for first in range(0, 2 * height - 1, ROWS):
        offset, table = _table(rel_pos_h, first, height, query.dtype, CHANNELS, BLOCK_D)
        places, there = _row_places(n, offset, height, width)
        tl.store(rows + places, dot(table, tl.trans(query)), there)
    tl.debug_barrier()


@triton.jit
def _load_row_terms(
    rows: tl.tensor,
    n: tl.tensor,
    offset: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    BLOCK_W: tl.constexpr,
) -> tl.tensor:
    """Load the gradients of the terms of row offsets and queries, summed over pieces."""
    places, there = _row_places(n, offset, height, width)
    total = tl.zeros((ROWS, TILE), tl.float32)
    for piece in range(tl.cdiv(width, BLOCK_W)):
        part = tl.load(rows + piece * height * height * width + places, there, other=0)
        total += part.to(tl.float32)
    return total.to(rows.dtype.element_ty)


@triton.jit
def _keys(
    left: tl.tensor, top: tl.tensor, height: tl.tensor, width: tl.tensor, BLOCK_W: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return the tokens of a tile of keys, and whether they exist."""
    slot = tl.arange(0, TILE)
    row, column = top + slot // BLOCK_W, left + slot % BLOCK_W
    return row * width + column, (row < height) & (column < width)


@triton.jit
def _column_terms(
    columns: tl.tensor,
    n: tl.tensor,
    left: tl.tensor,
    tokens: tl.tensor,
    width: tl.tensor,
    BLOCK_W: tl.constexpr,
) -> tl.tensor:
    """Load the terms of queries with the keys of a tile, minus infinity for missing columns."""
    column = left + (tl.arange(0, TILE) % BLOCK_W)[None, :]
    places = n[:, None] * tl.cdiv(width, BLOCK_W) * BLOCK_W + column
    term = tl.load(columns + places, (n < tokens)[:, None], other=0)
    return tl.where(column < width, term.to(tl.float32), float('-inf'))


@triton.jit
def _logits(
    products: tl.tensor,
    column_terms: tl.tensor,
    rows: tl.tensor,
    n: tl.tensor,
    top: tl.tensor,
    height: tl.tensor,
    tokens: tl.tensor,
    scale: tl.tensor,
    BLOCK_W: tl.constexpr,
    KEYS: tl.constexpr,
) -> tl.tensor:
    """Return logits of powers of two, minus infinity for missing keys, from products of queries and
    keys, the latter along the axis KEYS."""
    logits = products + column_terms
    row = tl.expand_dims(tl.arange(0, TILE) // BLOCK_W, 1 - KEYS)
    for i in tl.static_range(TILE // BLOCK_W):
        there = top + i < height
        term = tl.load(rows + (top + i) * tokens + n, there & (n < tokens), other=0)
        term = tl.where(there, term.to(tl.float32), float('-inf'))
        logits += tl.where(row == i, tl.expand_dims(term, KEYS), 0)
    return logits * (scale * LOG2_E)


@triton.jit
def _forward_kernel(
    qkv: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    out: tl.tensor,
    logsumexp: tl.tensor,
    columns: tl.tensor,
    rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    tokens = height * width
    tile, head, place, base = _program(tl.cdiv(tokens, TILE), tokens, heads, CHANNELS)
    q, slot, stride = qkv + place, tl.arange(0, TILE), heads * CHANNELS
    n = tile * TILE + slot
    query = _load(q, n, n < tokens, 3 * stride, CHANNELS, BLOCK_D)

    columns += head * tokens * tl.cdiv(width, BLOCK_W) * BLOCK_W
    rows += head * height * tokens
    _store_terms(
        query, rel_pos_h, rel_pos_w, columns, rows, n, height, width, CHANNELS, BLOCK_W, BLOCK_D
    )
    largest = tl.full((TILE,), float('-inf'), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    result = tl.zeros((TILE, BLOCK_D), tl.float32)
    for left in range(0, width, BLOCK_W):
        column_terms = _column_terms(columns, n, left, tokens, width, BLOCK_W)
        for top in range(0, height, TILE // BLOCK_W):
            key, there = _keys(left, top, height, width, BLOCK_W)
            keys = _load(q + stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
            values = _load(q + 2 * stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
            logits = _logits(
                dot(query, tl.trans(keys)),
                column_terms,
                rows,
                n,
                top,
                height,
                tokens,
                scale,
                BLOCK_W,
                1,
            )
            new = tl.maximum(largest, tl.max(logits, 1))  # finite, since each tile has a key
            weights = tl.exp2(logits - new[:, None])
            shrunk = tl.exp2(largest - new)
            total = total * shrunk + tl.sum(weights, 1)
            result = result * shrunk[:, None] + dot(weights.to(values.dtype), values)
            largest = new
    _store(out + base, n, n < tokens, stride, result / total[:, None], CHANNELS, BLOCK_D)
    tl.store(logsumexp + head * tokens + n, largest + tl.log2(total), n < tokens)


@triton.jit
def _queries_backward_kernel(
    qkv: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    out: tl.tensor,
    logsumexp: tl.tensor,
    grad_out: tl.tensor,
    grad_qkv: tl.tensor,
    means: tl.tensor,
    columns: tl.tensor,
    rows: tl.tensor,
    grad_columns: tl.tensor,
    grad_rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    tokens, pieces = height * width, tl.cdiv(width, BLOCK_W)
    tile, head, place, base = _program(tl.cdiv(tokens, TILE), tokens, heads, CHANNELS)
    q, slot, stride = qkv + place, tl.arange(0, TILE), heads * CHANNELS
    n = tile * TILE + slot
    query = _load(q, n, n < tokens, 3 * stride, CHANNELS, BLOCK_D)
    columns += head * tokens * pieces * BLOCK_W
    rows += head * height * tokens
    _store_terms(
        query, rel_pos_h, rel_pos_w, columns, rows, n, height, width, CHANNELS, BLOCK_W, BLOCK_D
    )
    grad = _load(grad_out + base, n, n < tokens, stride, CHANNELS, BLOCK_D)
    result = _load(out + base, n, n < tokens, stride, CHANNELS, BLOCK_D)
    mean = tl.sum(grad.to(tl.float32) * result.to(tl.float32), 1)
    tl.store(means + head * tokens + n, mean, n < tokens)
    total = tl.load(logsumexp + head * tokens + n, n < tokens, other=0)

    grad_columns += head * tokens * pieces * BLOCK_W
    grad_rows += head * pieces * height * tokens
    grad_query = tl.zeros((TILE, BLOCK_D), tl.float32)
    for left in range(0, width, BLOCK_W):
        column_terms = _column_terms(columns, n, left, tokens, width, BLOCK_W)
        sums = tl.zeros((TILE, TILE), tl.float32)
        for top in range(0, height, TILE // BLOCK_W):
            key, there = _keys(left, top, height, width, BLOCK_W)
            keys = _load(q + stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
            values = _load(q + 2 * stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
            logits = _logits(
                dot(query, tl.trans(keys)),
                column_terms,
                rows,
                n,
                top,
                height,
                tokens,
                scale,
                BLOCK_W,
                1,
            )
            weights = tl.exp2(logits - total[:, None])
            grad_logits = weights * (dot(grad, tl.trans(values)) - mean[:, None])
            grad_query += dot(grad_logits.to(keys.dtype), keys)
            sums += grad_logits
            for i in tl.static_range(TILE // BLOCK_W):
                row = left // BLOCK_W * height + top + i
                of_row = tl.sum(tl.where((slot // BLOCK_W == i)[None, :], grad_logits, 0), 1)
                tl.store(grad_rows + row * tokens + n, of_row, (n < tokens) & (top + i < height))
        places = n[:, None] * pieces * BLOCK_W + left + tl.arange(0, BLOCK_W)[None, :]
        sums = tl.sum(tl.reshape(sums, (TILE, TILE // BLOCK_W, BLOCK_W)), 1)
        tl.store(grad_columns + places, sums, (n < tokens)[:, None])
    tl.debug_barrier()

    for first in range(0, 2 * width - 1, ROWS):
        offset, table = _table(rel_pos_w, first, width, query.dtype, CHANNELS, BLOCK_D)
        places, there = _column_places(n, offset, tokens, width, BLOCK_W)
        grad_query += dot(tl.load(grad_columns + places, there, other=0), table)
    for first in range(0, 2 * height - 1, ROWS):
        offset, table = _table(rel_pos_h, first, height, query.dtype, CHANNELS, BLOCK_D)
        of_rows = _load_row_terms(grad_rows, n, offset, height, width, BLOCK_W)
        grad_query += dot(tl.trans(of_rows), table)
    grad_query *= scale
    _store(grad_qkv + place, n, n < tokens, 3 * stride, grad_query, CHANNELS, BLOCK_D)


@triton.jit
def _keys_backward_kernel(
    qkv: tl.tensor,
    logsumexp: tl.tensor,
    grad_out: tl.tensor,
    grad_qkv: tl.tensor,
    means: tl.tensor,
    columns: tl.tensor,
    rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    BLOCK_H: tl.constexpr = TILE // BLOCK_W
    tokens, pieces = height * width, tl.cdiv(width, BLOCK_W)
    tiles = pieces * tl.cdiv(height, BLOCK_H)
    tile, head, place, base = _program(tiles, tokens, heads, CHANNELS)
    q, slot, stride = qkv + place, tl.arange(0, TILE), heads * CHANNELS
    left, top = tile % pieces * BLOCK_W, tile // pieces * BLOCK_H
    key, exists = _keys(left, top, height, width, BLOCK_W)
    keys = _load(q + stride, key, exists, 3 * stride, CHANNELS, BLOCK_D)
    values = _load(q + 2 * stride, key, exists, 3 * stride, CHANNELS, BLOCK_D)

    columns += head * tokens * pieces * BLOCK_W
    rows += head * height * tokens
    column = left + tl.arange(0, BLOCK_W)
    of_column = tl.where((left + slot % BLOCK_W)[:, None] == column[None, :], 1.0, 0.0)
    of_column = of_column.to(columns.dtype.element_ty)
    grad_keys = tl.zeros((TILE, BLOCK_D), tl.float32)
    grad_values = tl.zeros((TILE, BLOCK_D), tl.float32)
    for first in range(0, tokens, TILE):
        n = first + slot
        query = _load(q, n, n < tokens, 3 * stride, CHANNELS, BLOCK_D)
        grad = _load(grad_out + base, n, n < tokens, stride, CHANNELS, BLOCK_D)
        total = tl.load(logsumexp + head * tokens + n, n < tokens, other=0)
        mean = tl.load(means + head * tokens + n, n < tokens, other=0)
        places = n[:, None] * pieces * BLOCK_W + column[None, :]
        column_terms = tl.load(columns + places, (n < tokens)[:, None], other=0)
        logits = _logits(
            dot(keys, tl.trans(query)),
            dot(of_column, tl.trans(column_terms)),
            rows,
            n,
            top,
            height,
            tokens,
            scale,
            BLOCK_W,
            0,
        )
        weights = tl.exp2(logits - total[None, :])
        grad_values += dot(weights.to(grad.dtype), grad)
        grad_logits = weights * (dot(values, tl.trans(grad)) - mean[None, :])
        grad_keys += dot(grad_logits.to(query.dtype), query)
    grad_k = grad_qkv + place + stride
    _store(grad_k, key, exists, 3 * stride, grad_keys * scale, CHANNELS, BLOCK_D)
    _store(grad_k + stride, key, exists, 3 * stride, grad_values, CHANNELS, BLOCK_D)


@triton.jit
def _tables_backward_kernel(
    qkv: tl.tensor,
    grad_columns: tl.tensor,
    grad_rows: tl.tensor,
    parts: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Sum over a head's queries: a program for each span of them and each ROWS of a table."""
    tokens, pieces = height * width, tl.cdiv(width, BLOCK_W)
    spans, tiles_w = tl.cdiv(tokens, SPAN), tl.cdiv(2 * width - 1, ROWS)
    tiles = spans * (tiles_w + tl.cdiv(2 * height - 1, ROWS))
    tile, head, place, _ = _program(tiles, tokens, heads, CHANNELS)
    span, tile = tile % spans, tile // spans
    grad_columns += head * tokens * pieces * BLOCK_W
    grad_rows += head * pieces * height * tokens
    parts += (head * spans + span) * (2 * (height + width) - 2) * CHANNELS
    of_width = tile < tiles_w
    side = tl.where(of_width, width, height)
    slot = tl.where(of_width, tile, tile - tiles_w) * ROWS + tl.arange(0, ROWS)
    offset = slot - (side - 1)
    total = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for first in range(span * SPAN, tl.minimum((span + 1) * SPAN, tokens), TILE):
        n = first + tl.arange(0, TILE)
        query = _load(qkv + place, n, n < tokens, 3 * heads * CHANNELS, CHANNELS, BLOCK_D)
        if of_width:
            places, there = _column_places(n, offset, tokens, width, BLOCK_W)
            terms = tl.trans(tl.load(grad_columns + places, there, other=0))
        else:
            terms = _load_row_terms(grad_rows, n, offset, height, width, BLOCK_W)
        total += dot(terms, query)
    row = 2 * side - 2 - slot
    parts += tl.where(of_width, 0, 2 * width - 1) * CHANNELS
    _store(parts, row, row >= 0, CHANNELS, total * scale, CHANNELS, BLOCK_D)


@triton.jit
def _sum_backward_kernel(
    parts: tl.tensor,
    grad_rel_pos_h: tl.tensor,
    grad_rel_pos_w: tl.tensor,
    number: tl.tensor,
    numbers_h: tl.tensor,
    numbers_w: tl.tensor,
) -> None:
    """Add up the parts of both tables' gradients."""
    place = tl.program_id(0) * TILE + tl.arange(0, TILE)
    there = place < numbers_w + numbers_h
    total = tl.zeros((TILE,), tl.float32)
    for first in range(0, number, TILE):
        part = first + tl.arange(0, TILE)
        places = part.to(tl.int64)[:, None] * (numbers_w + numbers_h) + place[None, :]
        mask = (part < number)[:, None] & there[None, :]
        total += tl.sum(tl.load(parts + places, mask, other=0), 0)
    tl.store(grad_rel_pos_w + place, total, place < numbers_w)
    tl.store(grad_rel_pos_h + place - numbers_w, total, there & (place >= numbers_w))


@torch.library.custom_op(
    'mtp::relative_position_attention', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin()
def relative_position_attention(
    qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor
) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel; differentiable in every argument.

    Args:
        qkv: queries, keys and values ``(B, H * W, 3, heads, d)``, bfloat16 or float16, ``d`` a
            multiple of 16 and at most 128. They are copied only if not contiguous.
        rel_pos_h, rel_pos_w: relative tables ``(2 * H - 1, d)`` and ``(2 * W - 1, d)``, any dtypes.

    Returns:
        tuple[Tensor, Tensor]: attention output ``(B, H * W, heads, d)``, and the log-sum-exp of
        each query's logits in base 2, ``(B, heads, H * W)`` float32.
    """
    results = _fake(qkv)
    grid = _grid(rel_pos_h, rel_pos_w)
    tensors = *_contiguous(qkv, rel_pos_h, rel_pos_w), *results, *_terms(qkv, grid)
    _launch(_forward_kernel, triton.cdiv(qkv.shape[1], TILE.value), tensors, qkv, grid)
    return results


@relative_position_attention.register_fake
def _fake(qkv: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, _three, heads, channels = qkv.shape
    return (
        qkv.new_empty(batch, tokens, heads, channels),
        qkv.new_empty(batch, heads, tokens, dtype=torch.float32),
    )


@torch.library.custom_op(
    'mtp::relative_position_attention_backward', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin()
def relative_position_attention_backward(
    qkv: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of all operands of :func:`relative_position_attention`."""
    qkv, *tables = _contiguous(qkv, rel_pos_h, rel_pos_w)
    grad_qkv, grad_h, grad_w = grads = _backward_fake(qkv, *tables)
    grid = height, width = _grid(rel_pos_h, rel_pos_w)
    batch, tokens, _, heads, _ = qkv.shape
    pieces, spans = triton.cdiv(width, _block_w(width)), triton.cdiv(tokens, SPAN.value)
    means = torch.empty_like(logsumexp)
    terms, grad_terms = _terms(qkv, grid), _terms(qkv, grid, pieces)
    parts = means.new_empty(batch * heads * spans, grad_h.numel() + grad_w.numel())

    known = logsumexp, grad_out.contiguous(), grad_qkv, means, *terms
    tiles = triton.cdiv(tokens, TILE.value)
    tensors = qkv, *tables, out, *known, *grad_terms
    _launch(_queries_backward_kernel, tiles, tensors, qkv, grid)
    tiles = pieces * triton.cdiv(height, TILE.value // _block_w(width))
    _launch(_keys_backward_kernel, tiles, (qkv, *known), qkv, grid)
    tiles = spans * sum(triton.cdiv(2 * side - 1, ROWS.value) for side in grid)
    _launch(_tables_backward_kernel, tiles, (qkv, *grad_terms, parts), qkv, grid)
    with torch.cuda.device_of(qkv):
        _sum_backward_kernel[(triton.cdiv(parts.shape[1], TILE.value),)](
            parts, grad_h, grad_w, len(parts), grad_h.numel(), grad_w.numel()
        )
    return grads


@relative_position_attention_backward.register_fake
def _backward_fake(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in tensors[:3])  # type: ignore[return-value]  # of three


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the log-sum-exp would be given zeros, by one more launch


def _gradients(ctx: Any, grad_out: Tensor, _: None) -> tuple[Tensor, ...]:
    return relative_position_attention_backward(*ctx.saved_tensors, grad_out)


relative_position_attention.register_autograd(_gradients, setup_context=_save)


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)


def _grid(rel_pos_h: Tensor, rel_pos_w: Tensor) -> tuple[int, int]:
    return (len(rel_pos_h) + 1) // 2, (len(rel_pos_w) + 1) // 2


def _terms(qkv: Tensor, grid: tuple[int, int], pieces: int = 1) -> tuple[Tensor, Tensor]:
    """Return memory for terms of columns, padded to whole tiles of keys, and of rows."""
    batch, tokens, _, heads, _ = qkv.shape
    height, width = grid
    return (
        qkv.new_empty(batch, heads, tokens, width + -width % 16),
        qkv.new_empty(batch, heads, pieces, height, tokens),
    )


def _launch(
    kernel: Any, tiles: int, tensors: tuple[Tensor, ...], qkv: Tensor, grid: tuple[int, int]
) -> None:
    """Launch a kernel, one program for each tile of each head of each image."""
    batch, _, _, heads, channels = qkv.shape
    programs = tiles * batch * heads
    if not programs:
        return
    constants, options = _meta(channels, grid[1])
    with torch.cuda.device_of(qkv):  # Triton launches on the current device
        kernel[(programs,)](*tensors, *grid, heads, channels**-0.5, **constants, **options)


def _block_w(width: int) -> int:
    """Return the columns in a tile of keys: as many as leave less than 16 of all tiles empty."""
    return max(block for block in (16, 32, 64) if (width + -width % 16) % block == 0)


def _meta(channels: int, width: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return a kernel's constants and its launch options."""
    block = triton.next_power_of_2(channels)
    constants = {'CHANNELS': channels, 'BLOCK_W': _block_w(width), 'BLOCK_D': block}
    return constants, {'num_warps': 4 if block <= 64 else 8, 'num_stages': 2}


def compile_cases() -> Iterator[CompileCase]:
    """Yield grids of 28 x 28 and 64 x 64 tokens, and one that takes narrow tiles, for heads of 64
    channels; heads of 16 and 128."""
    for dtype, channels, width in (
        (torch.bfloat16, 64, 28),
        (torch.bfloat16, 64, 64),
        (torch.bfloat16, 64, 14),
        (torch.float16, 64, 28),
        (torch.bfloat16, 16, 28),
        (torch.bfloat16, 128, 64),
    ):
        constants, options = _meta(channels, width)
        terms = 'columns', 'rows', 'grad_columns', 'grad_rows'
        like_qkv = 'qkv', 'out', 'grad_out', 'grad_qkv', *terms
        others = 'rel_pos_h', 'rel_pos_w', 'logsumexp', 'means', 'parts'
        types = {
            **dict.fromkeys(like_qkv, f'*{TRITON_NAMES[dtype]}'),
            **dict.fromkeys(others, '*fp32'),
            'scale': 'fp32',
            **dict.fromkeys(constants, 'constexpr'),
        }
        for kernel in (
            _forward_kernel,
            _queries_backward_kernel,
            _keys_backward_kernel,
            _tables_backward_kernel,
        ):
            signature = {name: types.get(name, 'i32') for name in kernel.arg_names}
            yield CompileCase(kernel, signature, constants, **options)
    types = dict.fromkeys(('parts', 'grad_rel_pos_h', 'grad_rel_pos_w'), '*fp32')
    names = _sum_backward_kernel.arg_names
    yield CompileCase(_sum_backward_kernel, {name: types.get(name, 'i32') for name in names})
