"""Full attention with decomposed relative positions, on plain tensors.

Shapes: ``B`` images, ``heads``, a grid of ``H x W`` tokens (row-major, ``N = H * W``), ``d``
channels per head. A relative table has ``2 * L - 1`` rows for an axis of length ``L``: row
``i - k + L - 1`` belongs to a query at position ``i`` and a key at position ``k``.

Source: decomposed relative positions of MViTv2 (arXiv:2112.01526, eq. 4), as the MTP encoder
(arXiv:2403.13430) uses them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp.ops.deterministic import bicubic
from mtp.ops.dispatch import gradients, twin_of, use_triton


def resize_relative_table(table: Tensor, rows: int) -> Tensor:
    """Resize a relative table to another axis length.

    Interpolates bicubically (``align_corners=False``) along the rows, in float32 or wider. Returns
    the table itself if it already has that many rows.

    Args:
        table: relative table ``(rows_in, d)``.
        rows: number of rows of the result.

    Returns:
        Tensor: resized table ``(rows, d)``, the table's dtype.
    """
    if table.shape[0] == rows:
        return table
    image = table.to(torch.promote_types(table.dtype, torch.float32))[None, None]
    return bicubic(image, (rows, table.shape[1]))[0, 0].to(table.dtype)


def relative_position_terms(
    q: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the terms of attention logits that depend on row and column offsets only.

    Args:
        q: queries on their grid, ``(..., H, W, d)``.
        rel_pos_h: relative table of the rows ``(2 * H - 1, d)``.
        rel_pos_w: relative table of the columns ``(2 * W - 1, d)``.

    Returns:
        tuple[Tensor, Tensor]: term of each query with each key row ``(..., H, W, H)``, and with
        each key column ``(..., H, W, W)``.
    """
    height, width = q.shape[-3:-1]
    rows = torch.arange(height, device=q.device)
    columns = torch.arange(width, device=q.device)
    table_h = rel_pos_h[rows[:, None] - rows + height - 1]
    table_w = rel_pos_w[columns[:, None] - columns + width - 1]
    return (
        torch.einsum('...ijd,ikd->...ijk', q, table_h),
        torch.einsum('...ijd,jld->...ijl', q, table_w),
    )


def relative_position_attention(qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """Compute full attention over an ``H x W`` grid with decomposed relative positions.

    With ``q' = q / sqrt(d)`` the logit of query ``(i, j)`` and key ``(k, l)`` is
    ``q'.k + q'.rel_pos_h[i - k + H - 1] + q'.rel_pos_w[j - l + W - 1]``.

    A Triton kernel runs if :mod:`mtp.ops.dispatch` chooses it, in bfloat16 and float16 and for
    heads of 16, 32, ..., 128 channels. Otherwise :func:`relative_position_attention_torch` runs. So
    it does in float32: without TF32 no tensor core takes part, and then a kernel would save copies
    that cost little beside the products.

    Args:
        qkv: queries, keys and values ``(B, H * W, 3, heads, d)`` as one linear layer returns them,
            queries unscaled.
        rel_pos_h: relative table of the rows ``(2 * H - 1, d)``; its length determines ``H``.
        rel_pos_w: relative table of the columns ``(2 * W - 1, d)``; its length determines ``W``.

    Returns:
        Tensor: attention output ``(B, H * W, heads, d)``.

    Raises:
        ValueError: shapes or devices do not fit together.
    """
    _check(qkv, rel_pos_h, rel_pos_w)
    fits = qkv.dtype.itemsize == 2 and qkv.shape[4] in range(16, 129, 16)
    if fits and use_triton(qkv, rel_pos_h, rel_pos_w):
        from mtp.ops.triton import relative_position

        return relative_position.relative_position_attention(qkv, rel_pos_h, rel_pos_w)[0]
    return relative_position_attention_torch(qkv, rel_pos_h, rel_pos_w)


def relative_position_attention_torch(qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """Compute :func:`relative_position_attention` in torch."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    batch, heads, length, channels = q.shape
    height, width = (len(rel_pos_h) + 1) // 2, (len(rel_pos_w) + 1) // 2
    # dtypes as under autocast, which has ended when gradients are computed
    terms = relative_position_terms(
        q.unflatten(2, (height, width)), rel_pos_h.to(q.dtype), rel_pos_w.to(q.dtype)
    )

    # The terms become H + W additional query channels, selected by one-hot key channels. So a fused
    # attention kernel computes the sum, and no N x N bias is kept for the backward pass. The fused
    # CUDA kernels need a multiple of 8 channels, the same for values.
    filling = -(channels + height + width) % 8
    rows = torch.eye(height, dtype=k.dtype, device=k.device)[:, None].expand(-1, width, -1)
    columns = torch.eye(width, dtype=k.dtype, device=k.device).expand(height, -1, -1)
    places = F.pad(torch.cat([rows, columns], -1), (0, filling))
    extra_q = [term.flatten(2, 3) for term in terms]
    if filling:
        extra_q.append(q.new_zeros(()).expand(batch, heads, length, filling))
    out = F.scaled_dot_product_attention(
        torch.cat([q, *extra_q], -1),
        torch.cat([k, places.flatten(0, 1).expand(batch, heads, -1, -1)], -1),
        F.pad(v, (0, height + width + filling)),
        scale=channels**-0.5,  # of the terms too
    )
    return out[..., :channels].transpose(1, 2)


@twin_of('relative_position_attention')
def _twin(*operands: Tensor) -> tuple[Tensor, Tensor]:
    out = relative_position_attention_torch(*operands)
    # the log-sum-exp is unused: the backward pass also runs in the twin
    unused = out.transpose(1, 2)[..., 0]
    return out, unused.new_full(unused.shape, float('nan'), dtype=torch.float32)


@twin_of('relative_position_attention_backward')
def _backward_twin(*tensors: Tensor) -> tuple[Tensor, ...]:
    *operands, _out, _logsumexp, grad_out = tensors
    return gradients(relative_position_attention_torch, tuple(operands), grad_out)


def _check(qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> None:
    if qkv.dim() != 5 or qkv.shape[2] != 3:
        raise ValueError(
            f'qkv of shape {tuple(qkv.shape)}: it takes (B, H * W, 3, heads, d), '
            'e.g. torch.stack([q, k, v], 2)'
        )
    grid = (len(rel_pos_h) + 1) // 2, (len(rel_pos_w) + 1) // 2
    for name, table, side in (('rel_pos_h', rel_pos_h, grid[0]), ('rel_pos_w', rel_pos_w, grid[1])):
        if table.shape != (2 * side - 1, qkv.shape[4]):
            raise ValueError(
                f'{name} must have shape (2 * side - 1, {qkv.shape[4]}), side being '
                f'that of the grid; got {tuple(table.shape)}'
            )
        if table.device != qkv.device:
            raise ValueError(f'{name} is on {table.device}, qkv on {qkv.device}: put all on one')
    if grid[0] * grid[1] != qkv.shape[1]:
        raise ValueError(
            f'tables of {len(rel_pos_h)} and {len(rel_pos_w)} rows are those of a '
            f'grid of {grid[0]} x {grid[1]} tokens, but qkv has {qkv.shape[1]} tokens'
        )
