"""Full attention with decomposed relative positions in one pass: kernels, operator, gradient.

A tile of keys is a piece of some rows of the grid: 64 places, 16, 32 or 64 of them in a row, so
that for all tiles below each other the terms of the columns are the same, and those of the rows are
a few numbers a query. A grid 28 tokens wide fills 28 of 32 columns.

The terms come from products of queries and whole tables, and are stored where their keys are: for
each query those with the columns, then those with the rows. Their gradients are stored alike, those
of the rows for each piece of the grid's width. A program reads what it has stored itself behind a
barrier. The backward pass computes the terms again, which costs less than keeping them.

Launches: 1 forward; 4 backward, which compute the gradients of the queries, of the keys and values,
and of the tables, for each head, and add up the last. Nothing is added to memory by two programs,
so that results are the same bits in every run. Products of an image of ViT-B at 448 px (28 x 28
tokens, 12 heads of 64 channels): 2.4 GFLOP forward, 9.4 backward, where five products in place of
seven would need additions in memory. Beside its operands and results it moves the terms, 1.2 MB in
bfloat16, which are written in both passes and read in each loop over tiles, and their gradients.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase, contiguous, dot, save_attention

TILE = tl.constexpr(64)  # queries or keys at a time
ROWS = tl.constexpr(32)  # of a relative table at a time
WINDOW = tl.constexpr(16)  # terms along an axis are padded to whole windows
SPAN = 1024  # queries that a program sums over for the gradients of the tables
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
    """Load rows of a matrix, padded to BLOCK_D; zeros for those that are not there."""
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
def _padded(side: tl.tensor) -> tl.tensor:
    """Return the number of places for the terms of a query with the keys along an axis."""
    return tl.cdiv(side, WINDOW) * WINDOW


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
def _store_terms(
    query: tl.tensor,
    rel_pos: tl.tensor,
    terms: tl.tensor,
    exists: tl.tensor,
    place: tl.tensor,
    side: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Store the terms of queries at places along an axis with all keys along it, then zeros."""
    for first in range(0, 2 * side - 1, ROWS):
        offset, table = _table(rel_pos, first, side, query.dtype, CHANNELS, BLOCK_D)
        key = place[:, None] + offset[None, :]
        there = exists[:, None] & (key >= 0) & (key < side)
        tl.store(terms[:, None] + key, dot(query, tl.trans(table)), there)
    missing = side + tl.arange(0, WINDOW)[None, :]
    tl.store(terms[:, None] + missing, 0, exists[:, None] & (missing < _padded(side)))


@triton.jit
def _load_terms(
    terms: tl.tensor,
    exists: tl.tensor,
    place: tl.tensor,
    offset: tl.tensor,
    side: tl.tensor,
    pieces: tl.tensor,
) -> tl.tensor:
    """Load the gradients of terms of queries and offsets along an axis, summed over pieces."""
    key = place[:, None] + offset[None, :]
    there = exists[:, None] & (key >= 0) & (key < side)
    total = tl.zeros((TILE, ROWS), tl.float32)
    for piece in range(pieces):
        part = tl.load(terms[:, None] + piece * _padded(side) + key, there, other=0)
        total += part.to(tl.float32)
    return total.to(terms.dtype.element_ty)


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
    exists: tl.tensor,
    left: tl.tensor,
    width: tl.tensor,
    BLOCK_W: tl.constexpr,
) -> tl.tensor:
    """Load the terms of queries with the keys of a tile, minus infinity for missing columns."""
    column = left + (tl.arange(0, TILE) % BLOCK_W)[None, :]
    term = tl.load(columns[:, None] + column, exists[:, None], other=0)
    return tl.where(column < width, term.to(tl.float32), float('-inf'))


@triton.jit
def _logits(
    query: tl.tensor,
    keys: tl.tensor,
    column_terms: tl.tensor,
    rows: tl.tensor,
    exists: tl.tensor,
    top: tl.tensor,
    height: tl.tensor,
    scale: tl.tensor,
    BLOCK_W: tl.constexpr,
) -> tl.tensor:
    """Return logits of powers of two, minus infinity for missing keys."""
    logits = dot(query, tl.trans(keys)) + column_terms
    row = (tl.arange(0, TILE) // BLOCK_W)[None, :]
    for i in tl.static_range(TILE // BLOCK_W):
        term = tl.load(rows + top + i, exists & (top + i < height), other=0).to(tl.float32)
        term = tl.where(top + i < height, term, float('-inf'))
        logits += tl.where(row == i, term[:, None], 0)
    return logits * (scale * LOG2_E)


@triton.jit
def _queries(
    qkv: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    terms: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Store the terms of this program's queries; return what :func:`_program` returns of its head,
    then tokens, which of them exist, queries, and where their terms with columns and rows are."""
    tokens = height * width
    tile, head, place, base = _program(tl.cdiv(tokens, TILE), tokens, heads, CHANNELS)
    n = tile * TILE + tl.arange(0, TILE)
    exists = n < tokens
    query = _load(qkv + place, n, exists, 3 * heads * CHANNELS, CHANNELS, BLOCK_D)
    columns = terms + (head * tokens + n) * (_padded(width) + _padded(height))
    rows = columns + _padded(width)
    _store_terms(query, rel_pos_w, columns, exists, n % width, width, CHANNELS, BLOCK_D)
    _store_terms(query, rel_pos_h, rows, exists, n // width, height, CHANNELS, BLOCK_D)
    tl.debug_barrier()
    return head, place, base, n, exists, query, columns, rows


@triton.jit
def _forward_kernel(
    qkv: tl.tensor,
    rel_pos_h: tl.tensor,
    rel_pos_w: tl.tensor,
    out: tl.tensor,
    logsumexp: tl.tensor,
    terms: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    head, place, base, n, exists, query, columns, rows = _queries(
        qkv, rel_pos_h, rel_pos_w, terms, height, width, heads, CHANNELS, BLOCK_D
    )
    q, stride, tokens = qkv + place, heads * CHANNELS, height * width
    largest = tl.full((TILE,), float('-inf'), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    result = tl.zeros((TILE, BLOCK_D), tl.float32)
    for left in range(0, width, BLOCK_W):
        column_terms = _column_terms(columns, exists, left, width, BLOCK_W)
        for top in range(0, height, TILE // BLOCK_W):
            key, there = _keys(left, top, height, width, BLOCK_W)
            keys = _load(q + stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
            values = _load(q + 2 * stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
            logits = _logits(query, keys, column_terms, rows, exists, top, height, scale, BLOCK_W)
            new = tl.maximum(largest, tl.max(logits, 1))  # finite, since each tile has a key
            weights = tl.exp2(logits - new[:, None])
            shrunk = tl.exp2(largest - new)
            total = total * shrunk + tl.sum(weights, 1)
            result = result * shrunk[:, None] + dot(weights.to(values.dtype), values)
            largest = new
    _store(out + base, n, exists, stride, result / total[:, None], CHANNELS, BLOCK_D)
    tl.store(logsumexp + head * tokens + n, largest + tl.log2(total), exists)


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
    terms: tl.tensor,
    grad_terms: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    head, place, base, n, exists, query, columns, rows = _queries(
        qkv, rel_pos_h, rel_pos_w, terms, height, width, heads, CHANNELS, BLOCK_D
    )
    tokens, pieces = height * width, tl.cdiv(width, BLOCK_W)
    q, slot, stride = qkv + place, tl.arange(0, TILE), heads * CHANNELS
    grad = _load(grad_out + base, n, exists, stride, CHANNELS, BLOCK_D)
    result = _load(out + base, n, exists, stride, CHANNELS, BLOCK_D)
    mean = tl.sum(grad.to(tl.float32) * result.to(tl.float32), 1)
    tl.store(means + head * tokens + n, mean, exists)
    total = tl.load(logsumexp + head * tokens + n, exists, other=0)
    of_columns = grad_terms + (head * tokens + n) * (_padded(width) + pieces * _padded(height))
    of_rows = of_columns + _padded(width)
    grad_query = tl.zeros((TILE, BLOCK_D), tl.float32)
    for left in range(0, width, BLOCK_W):
        column_terms = _column_terms(columns, exists, left, width, BLOCK_W)
        sums = tl.zeros((TILE, TILE), tl.float32)
        for top in range(0, height, TILE // BLOCK_W):
            key, there = _keys(left, top, height, width, BLOCK_W)
            keys = _load(q + stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
            values = _load(q + 2 * stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
            logits = _logits(query, keys, column_terms, rows, exists, top, height, scale, BLOCK_W)
            weights = tl.exp2(logits - total[:, None])
            grad_logits = weights * (dot(grad, tl.trans(values)) - mean[:, None])
            grad_query += dot(grad_logits.to(keys.dtype), keys)
            sums += grad_logits
            for i in tl.static_range(TILE // BLOCK_W):
                of_row = tl.sum(tl.where((slot // BLOCK_W == i)[None, :], grad_logits, 0), 1)
                row = left // BLOCK_W * _padded(height) + top + i
                tl.store(of_rows + row, of_row, exists & (top + i < height))
        column = left + tl.arange(0, BLOCK_W)[None, :]
        sums = tl.sum(tl.reshape(sums, (TILE, TILE // BLOCK_W, BLOCK_W)), 1)
        tl.store(of_columns[:, None] + column, sums, exists[:, None])
    tl.debug_barrier()

    for first in range(0, 2 * width - 1, ROWS):
        offset, table = _table(rel_pos_w, first, width, query.dtype, CHANNELS, BLOCK_D)
        grad_query += dot(_load_terms(of_columns, exists, n % width, offset, width, 1), table)
    for first in range(0, 2 * height - 1, ROWS):
        offset, table = _table(rel_pos_h, first, height, query.dtype, CHANNELS, BLOCK_D)
        grad_query += dot(_load_terms(of_rows, exists, n // width, offset, height, pieces), table)
    grad_query *= scale
    _store(grad_qkv + place, n, exists, 3 * stride, grad_query, CHANNELS, BLOCK_D)


@triton.jit
def _keys_backward_kernel(
    qkv: tl.tensor,
    logsumexp: tl.tensor,
    grad_out: tl.tensor,
    grad_qkv: tl.tensor,
    means: tl.tensor,
    terms: tl.tensor,
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
    key, there = _keys(left, top, height, width, BLOCK_W)
    keys = _load(q + stride, key, there, 3 * stride, CHANNELS, BLOCK_D)
    values = _load(q + 2 * stride, key, there, 3 * stride, CHANNELS, BLOCK_D)

    # Products with ones take a key's terms out of those of its tile: exact, and no layout changes.
    column, row = tl.arange(0, BLOCK_W)[None, :], tl.arange(0, WINDOW)[None, :]
    of_column = tl.where(slot[:, None] % BLOCK_W == column, 1.0, 0.0).to(keys.dtype)
    of_row = tl.where(top % WINDOW + slot[:, None] // BLOCK_W == row, 1.0, 0.0).to(keys.dtype)
    column, row = left + column, _padded(width) + top // WINDOW * WINDOW + row
    grad_keys = tl.zeros((TILE, BLOCK_D), tl.float32)
    grad_values = tl.zeros((TILE, BLOCK_D), tl.float32)
    for first in range(0, tokens, TILE):
        n = first + slot
        exists = n < tokens
        query = _load(q, n, exists, 3 * stride, CHANNELS, BLOCK_D)
        grad = _load(grad_out + base, n, exists, stride, CHANNELS, BLOCK_D)
        total = tl.load(logsumexp + head * tokens + n, exists, other=0)
        mean = tl.load(means + head * tokens + n, exists, other=0)
        of_query = terms + ((head * tokens + n) * (_padded(width) + _padded(height)))[:, None]
        columns = tl.load(of_query + column, exists[:, None], other=0)
        rows = tl.load(of_query + row, exists[:, None], other=0)
        logits = dot(keys, tl.trans(query))
        logits += dot(of_column, tl.trans(columns)) + dot(of_row, tl.trans(rows))
        weights = tl.exp2(logits * (scale * LOG2_E) - total[None, :])
        grad_values += dot(weights.to(grad.dtype), grad)
        grad_logits = weights * (dot(values, tl.trans(grad)) - mean[None, :])
        grad_keys += dot(grad_logits.to(query.dtype), query)
    grad_k = grad_qkv + place + stride
    _store(grad_k, key, there, 3 * stride, grad_keys * scale, CHANNELS, BLOCK_D)
    _store(grad_k + stride, key, there, 3 * stride, grad_values, CHANNELS, BLOCK_D)


@triton.jit
def _tables_backward_kernel(
    qkv: tl.tensor,
    grad_terms: tl.tensor,
    parts: tl.tensor,
    span: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    heads: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Sum over a head's queries: a program for each ``span`` of them and each ROWS of a table."""
    tokens, pieces = height * width, tl.cdiv(width, BLOCK_W)
    spans, tiles_w = tl.cdiv(tokens, span), tl.cdiv(2 * width - 1, ROWS)
    tiles = spans * (tiles_w + tl.cdiv(2 * height - 1, ROWS))
    tile, head, place, _ = _program(tiles, tokens, heads, CHANNELS)
    number, tile = tile % spans, tile // spans
    parts += (head * spans + number) * (2 * (height + width) - 2) * CHANNELS
    of_width = tile < tiles_w
    side = tl.where(of_width, width, height)
    if not of_width:
        tile -= tiles_w
        grad_terms += _padded(width)
        parts += (2 * width - 1) * CHANNELS
    offset = tile * ROWS + tl.arange(0, ROWS) - (side - 1)
    total = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for first in range(number * span, tl.minimum((number + 1) * span, tokens), TILE):
        n = first + tl.arange(0, TILE)
        query = _load(qkv + place, n, n < tokens, 3 * heads * CHANNELS, CHANNELS, BLOCK_D)
        terms = grad_terms + (head * tokens + n) * (_padded(width) + pieces * _padded(height))
        of_query = tl.where(of_width, n % width, n // width)
        addends = tl.where(of_width, 1, pieces)
        of_offset = _load_terms(terms, n < tokens, of_query, offset, side, addends)
        total += dot(tl.trans(of_offset), query)
    row = side - 1 - offset
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
    tensors = *contiguous(qkv, rel_pos_h, rel_pos_w), *results, _terms(qkv, grid)
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
    qkv, *tables = contiguous(qkv, rel_pos_h, rel_pos_w)
    grad_qkv, grad_h, grad_w = grads = _backward_fake(qkv, *tables)
    grid = height, width = _grid(rel_pos_h, rel_pos_w)
    batch, tokens, _, heads, _ = qkv.shape
    pieces, spans = triton.cdiv(width, _block_w(width)), triton.cdiv(tokens, SPAN)
    means = torch.empty_like(logsumexp)
    terms, grad_terms = _terms(qkv, grid), _terms(qkv, grid, pieces)
    parts = means.new_empty(batch * heads * spans, grad_h.numel() + grad_w.numel())

    known = logsumexp, grad_out.contiguous(), grad_qkv, means, terms
    tiles = triton.cdiv(tokens, TILE.value)
    tensors = qkv, *tables, out, *known, grad_terms
    _launch(_queries_backward_kernel, tiles, tensors, qkv, grid)
    tiles = pieces * triton.cdiv(height, TILE.value // _block_w(width))
    _launch(_keys_backward_kernel, tiles, (qkv, *known), qkv, grid)
    tiles = spans * sum(triton.cdiv(2 * side - 1, ROWS.value) for side in grid)
    _launch(_tables_backward_kernel, tiles, (qkv, grad_terms, parts, SPAN), qkv, grid)
    with torch.cuda.device_of(qkv):
        _sum_backward_kernel[(triton.cdiv(parts.shape[1], TILE.value),)](
            parts, grad_h, grad_w, len(parts), grad_h.numel(), grad_w.numel()
        )
    return grads


@relative_position_attention_backward.register_fake
def _backward_fake(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in tensors[:3])  # type: ignore[return-value]  # of three


def _gradients(ctx: Any, grad_out: Tensor, _: None) -> tuple[Tensor, ...]:
    return relative_position_attention_backward(*ctx.saved_tensors, grad_out)


relative_position_attention.register_autograd(_gradients, setup_context=save_attention)


def _grid(rel_pos_h: Tensor, rel_pos_w: Tensor) -> tuple[int, int]:
    return (len(rel_pos_h) + 1) // 2, (len(rel_pos_w) + 1) // 2


def _terms(qkv: Tensor, grid: tuple[int, int], pieces: int = 1) -> Tensor:
    """Return memory for the terms of each query, those of the rows in pieces."""
    batch, tokens, _, heads, _ = qkv.shape
    height, width = (side + -side % WINDOW.value for side in grid)
    return qkv.new_empty(batch, heads, tokens, width + pieces * height)


def _launch(
    kernel: Any, tiles: int, operands: tuple[Any, ...], qkv: Tensor, grid: tuple[int, int]
) -> None:
    """Launch a kernel, one program for each tile of each head of each image."""
    batch, _, _, heads, channels = qkv.shape
    programs = tiles * batch * heads
    if not programs:
        return
    constants, options = _meta(channels, grid[1])
    with torch.cuda.device_of(qkv):  # Triton launches on the current device
        kernel[(programs,)](*operands, *grid, heads, channels**-0.5, **constants, **options)


def _block_w(width: int) -> int:
    """Return the number of columns in a tile of keys, the most that leave less than 16 empty."""
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
        like_qkv = 'qkv', 'out', 'terms', 'grad_out', 'grad_qkv', 'grad_terms'
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
