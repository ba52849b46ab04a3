"""Full attention with decomposed relative positions, on plain tensors.

Shapes: ``B`` images, ``heads``, a grid of ``H x W`` tokens (row-major, ``N = H * W``), ``d``
channels of a head. A relative table has ``2 * L - 1`` rows for an axis of length ``L``: row
``i - k + L - 1`` belongs to a query at position ``i`` and a key at position ``k``.

Source: decomposed relative positions of MViTv2 (arXiv:2112.01526, eq. 4), as the MTP encoder
(arXiv:2403.13430) uses them.
"""
import torch
import torch.nn.functional as F
from torch import Tensor


def resize_relative_table(table: Tensor, rows: int) -> Tensor:
    """Resize a relative table to another axis length.

    Bicubic (``align_corners=False``) along the rows, computed in float32 or wider; the table
    itself when it already has that many rows.

    Args:
        table: ``(rows_in, d)``.
        rows: number of rows of the result.

    Returns:
        Tensor: ``(rows, d)``, the table's dtype.
    """
    if table.shape[0] == rows:
        return table
    image = table.to(torch.promote_types(table.dtype, torch.float32))[None, None]
    image = F.interpolate(image, size=(rows, table.shape[1]), mode='bicubic', align_corners=False)
    return image[0, 0].to(table.dtype)


def relative_position_terms(q: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor
                            ) -> tuple[Tensor, Tensor]:
    """Attention logits that depend on the row and on the column offset only.

    Args:
        q: queries on their grid, ``(..., H, W, d)``.
        rel_pos_h: ``(2 * H - 1, d)``.
        rel_pos_w: ``(2 * W - 1, d)``.

    Returns:
        tuple[Tensor, Tensor]: ``(..., H, W, H)``, the term of each query with each key row, and
        ``(..., H, W, W)``, with each key column.
    """
    height, width = q.shape[-3:-1]
    rows = torch.arange(height, device=q.device)
    columns = torch.arange(width, device=q.device)
    table_h = rel_pos_h[rows[:, None] - rows + height - 1]
    table_w = rel_pos_w[columns[:, None] - columns + width - 1]
    return (torch.einsum('...ijd,ikd->...ijk', q, table_h),
            torch.einsum('...ijd,jld->...ijl', q, table_w))


def relative_position_attention(q: Tensor, k: Tensor, v: Tensor, rel_pos_h: Tensor,
                                rel_pos_w: Tensor) -> Tensor:
    """Full attention over an ``H x W`` grid with decomposed relative positions.

    With ``q' = q / sqrt(d)`` the logit of query ``(i, j)`` and key ``(k, l)`` is
    ``q'.k + q'.rel_pos_h[i - k + H - 1] + q'.rel_pos_w[j - l + W - 1]``.

    Args:
        q, k, v: ``(B, heads, H * W, d)``, ``q`` unscaled.
        rel_pos_h: ``(2 * H - 1, d)``; its length gives ``H``.
        rel_pos_w: ``(2 * W - 1, d)``; its length gives ``W``.

    Returns:
        Tensor: ``(B, heads, H * W, d)``.
    """
    batch, heads, length, channels = q.shape
    height, width = (rel_pos_h.shape[0] + 1) // 2, (rel_pos_w.shape[0] + 1) // 2
    q = q * channels**-0.5
    terms = relative_position_terms(q.unflatten(2, (height, width)), rel_pos_h, rel_pos_w)

    # The terms become H + W more query channels, which one-hot key channels pick out: so a fused
    # attention kernel computes the sum, and no N x N bias is kept for the backward pass.
    index = torch.arange(length, device=q.device)
    places = torch.cat([F.one_hot(index // width, height), F.one_hot(index % width, width)], -1)
    places = places.to(k.dtype).expand(batch, heads, length, height + width)
    out = F.scaled_dot_product_attention(
        torch.cat([q, *(term.flatten(2, 3) for term in terms)], -1),
        torch.cat([k, places], -1),
        F.pad(v, (0, height + width)),  # the fused kernels need equal widths
        scale=1.0)
    return out[..., :channels]
