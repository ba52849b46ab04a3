"""Rotated varied-size window attention (RVSA) on plain tensors.

Shapes: ``B`` images, ``heads``, a grid of ``H x W`` tokens, ``d`` channels per head, windows of
``s x s`` tokens; ``(H', W')`` is the grid padded to whole windows, ``n_h x n_w`` of them.

Source: D. Wang et al., "Advancing Plain Vision Transformer Towards Remote Sensing Foundation
Model", IEEE TGRS 2022 (arXiv:2208.03987), with the conventions of the released MTP models.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp.ops.deterministic import grid_sample
from mtp.ops.dispatch import gradients, twin_of, use_triton
from mtp.ops.relative_position import relative_position_terms

# Largest side of a window that the kernels take, tokens.
LARGEST_WINDOW = 8


def window_padding(grid: tuple[int, int], window_size: int) -> tuple[int, int, int, int]:
    """Return the padding of an ``(H, W)`` grid to whole windows, an odd token right or below.

    Returns:
        tuple[int, int, int, int]: tokens to add left, right, top and bottom, as in ``F.pad``.
    """
    vertical, horizontal = (-grid[0]) % window_size, (-grid[1]) % window_size
    left, top = horizontal // 2, vertical // 2
    return left, horizontal - left, top, vertical - top


def rotated_window_grid(
    offsets: Tensor, scales: Tensor, angles: Tensor, grid: tuple[int, int], window_size: int
) -> Tensor:
    """Return where each window of each head samples its keys and values.

    A window's regular positions are scaled and rotated about its centre, then shifted. This is done
    in normalised units ([-1, 1] over the padded grid, corners aligned), so on a non-square grid a
    rotation is not rigid in tokens. As in the released models, the x offset is divided by
    ``H // s`` and the y offset by ``W // s``: the axes look exchanged, but trained weights depend
    on it. If a side is shorter than the window, the divisor is 1, where the released code divides
    by zero.

    Args:
        offsets: offsets of the windows before that division, ``(B, heads, 2, n_h, n_w)``, x then y.
        scales: relative changes of size, ``(B, heads, 2, n_h, n_w)``, x then y.
        angles: angles of the windows ``(B, heads, n_h, n_w)``, radians.
        grid: size ``(H, W)`` of the grid before padding, tokens.
        window_size: side ``s`` of a window, tokens.

    Returns:
        Tensor: sampling positions ``(B, heads, H', W', 2)``, (x, y) for ``grid_sample`` with
        ``align_corners=True``; float32 or wider.
    """
    dtype = torch.promote_types(angles.dtype, torch.float32)
    n_h, n_w = angles.shape[-2:]
    step_h, step_w = 2 / (n_h * window_size - 1), 2 / (n_w * window_size - 1)
    middle = (window_size - 1) / 2

    def arange(length: int) -> Tensor:
        return torch.arange(length, dtype=dtype, device=angles.device)

    # (n_h, 1, n_w, 1) for windows and (s, 1, s) for the tokens in one
    centre_y = ((arange(n_h) * window_size + middle) * step_h - 1)[:, None, None, None]
    centre_x = ((arange(n_w) * window_size + middle) * step_w - 1)[:, None]
    local_y = ((arange(window_size) - middle) * step_h)[:, None, None]
    local_x = (arange(window_size) - middle) * step_w

    offset_x, offset_y = offsets.to(dtype)[..., None, :, None].unbind(2)
    scale_x, scale_y = scales.to(dtype)[..., None, :, None].unbind(2)
    angles = angles.to(dtype)[..., None, :, None]
    cos, sin = angles.cos(), angles.sin()

    x, y = local_x * (1 + scale_x), local_y * (1 + scale_y)
    positions = torch.stack(
        [
            centre_x + offset_x / max(1, grid[0] // window_size) + x * cos - y * sin,
            centre_y + offset_y / max(1, grid[1] // window_size) + x * sin + y * cos,
        ],
        -1,
    )  # (B, heads, n_h, s, n_w, s, 2)
    return positions.flatten(4, 5).flatten(2, 3)


def rotated_window_attention(
    qkv: Tensor,
    offsets: Tensor,
    scales: Tensor,
    angles: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    bias: Tensor,
) -> Tensor:
    """Compute attention of each window's queries to keys sampled from a rotated, resized window.

    Padding has zero queries, keys and values and is not masked: padded keys take part in the
    softmax. Keys and values are sampled bilinearly, with zeros outside the padded grid. For query
    ``(j, i)`` and key ``(m, n)``, by their positions in the window, the logit is
    ``q.k / sqrt(d) + q.rel_pos_h[j - m + s - 1] + q.rel_pos_w[i - n + s - 1] + bias``; unlike in
    full attention, the relative terms take the unscaled query.

    A Triton kernel runs if :mod:`mtp.ops.dispatch` chooses it and the operands fit a program's
    shared memory: windows of up to 8 x 8 tokens and heads of up to 256 bytes per token (128
    channels of bfloat16). Otherwise :func:`rotated_window_attention_torch` runs.

    Args:
        qkv: queries, keys and values ``(B, H, W, 3, heads, d)`` as one linear layer returns them,
            queries unscaled; may be a view.
        offsets, scales, angles: transforms of the windows, see :func:`rotated_window_grid`.
        rel_pos_h, rel_pos_w: relative tables ``(2 * s - 1, d)``; their length determines ``s``.
        bias: bias of the logits ``(heads, s * s, s * s)``.

    Returns:
        Tensor: attention output ``(B, H, W, heads, d)``.

    Raises:
        ValueError: shapes or devices do not fit together.
    """
    size = _check(qkv, offsets, scales, angles, rel_pos_h, rel_pos_w, bias)
    operands = qkv, offsets, scales, angles, rel_pos_h, rel_pos_w, bias
    narrow = qkv.shape[5] * qkv.element_size() <= 256
    if size <= LARGEST_WINDOW and narrow and use_triton(*operands):
        from mtp.ops.triton import rotated_window

        return rotated_window.rotated_window_attention(*operands)[0]
    return rotated_window_attention_torch(*operands)


def rotated_window_attention_torch(
    qkv: Tensor,
    offsets: Tensor,
    scales: Tensor,
    angles: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    bias: Tensor,
) -> Tensor:
    """Compute :func:`rotated_window_attention` in torch."""
    height, width, _, heads, channels = qkv.shape[1:]
    size = (rel_pos_h.shape[0] + 1) // 2
    grid = rotated_window_grid(offsets, scales, angles, (height, width), size)
    q, k, v = qkv.unbind(3)
    n_h, n_w = grid.shape[2] // size, grid.shape[3] // size
    padding = window_padding((height, width), size)

    q = F.pad(q, (0, 0, 0, 0, *padding))  # (B, H', W', heads, d)
    q = q.unflatten(2, (n_w, size)).unflatten(1, (n_h, size))
    q = q.permute(0, 1, 3, 5, 2, 4, 6).flatten(0, 2)  # (B * n_h * n_w, heads, s, s, d)

    kv = torch.cat([k, v], -1).permute(0, 3, 4, 1, 2).flatten(0, 1)  # (B * heads, 2 * d, H, W)
    kv = F.pad(kv, padding).to(grid.dtype)
    kv = grid_sample(kv, grid.flatten(0, 1), align_corners=True).to(q.dtype)
    kv = kv.unflatten(3, (n_w, size)).unflatten(2, (n_h, size))
    kv = kv.unflatten(1, (2, channels)).unflatten(0, (-1, heads))
    # (B, heads, 2, d, n_h, s, n_w, s) -> two of (B * n_h * n_w, heads, s * s, d)
    k, v = kv.permute(2, 0, 4, 6, 1, 5, 7, 3).flatten(5, 6).flatten(1, 3).unbind(0)

    # dtypes as under autocast, which has ended when gradients are computed
    term_h, term_w = relative_position_terms(q, rel_pos_h.to(q.dtype), rel_pos_w.to(q.dtype))
    bias = bias + (term_h[..., None] + term_w[..., None, :]).flatten(4, 5).flatten(2, 3)
    out = F.scaled_dot_product_attention(q.flatten(2, 3), k, v, attn_mask=bias.to(q.dtype))

    out = out.unflatten(2, (size, size)).unflatten(0, (-1, n_h, n_w))
    out = out.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)  # (B, H', W', heads, d)
    left, _, top, _ = padding
    return out[:, top : top + height, left : left + width]


@twin_of('rotated_window_attention')
def _twin(*operands: Tensor) -> tuple[Tensor, Tensor]:
    out = rotated_window_attention_torch(*operands)
    # the log-sum-exp is unused: the backward pass also runs in the twin
    return out, out.new_full(out.shape[:-1], float('nan'), dtype=torch.float32)


@twin_of('rotated_window_attention_backward')
def _backward_twin(*tensors: Tensor) -> tuple[Tensor, ...]:
    *operands, _out, _logsumexp, grad_out = tensors
    return gradients(rotated_window_attention_torch, tuple(operands), grad_out)


def _check(
    qkv: Tensor,
    offsets: Tensor,
    scales: Tensor,
    angles: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    bias: Tensor,
) -> int:
    """Return the window's side after checking the arguments."""
    if qkv.dim() != 6 or qkv.shape[3] != 3:
        raise ValueError(
            f'qkv of shape {tuple(qkv.shape)}: it takes (B, H, W, 3, heads, d), '
            'e.g. torch.stack([q, k, v], 3)'
        )
    if rel_pos_h.dim() != 2 or rel_pos_h.shape[0] < 3 or rel_pos_h.shape[0] % 2 == 0:
        raise ValueError(
            f'rel_pos_h of shape {tuple(rel_pos_h.shape)}: it takes (2 * s - 1, d) '
            'for windows of s x s tokens, s at least 2'
        )
    batch, height, width, _, heads, channels = qkv.shape
    size = (rel_pos_h.shape[0] + 1) // 2
    windows = (-(-height // size), -(-width // size))
    for name, tensor, shape in (
        ('offsets', offsets, (batch, heads, 2, *windows)),
        ('scales', scales, (batch, heads, 2, *windows)),
        ('angles', angles, (batch, heads, *windows)),
        ('rel_pos_h', rel_pos_h, (2 * size - 1, channels)),
        ('rel_pos_w', rel_pos_w, (2 * size - 1, channels)),
        ('bias', bias, (heads, size**2, size**2)),
    ):
        if tensor.shape != shape:
            raise ValueError(
                f'{name} of shape {tuple(tensor.shape)}: it takes {tuple(shape)} with qkv of shape '
                f'{tuple(qkv.shape)} and windows of {size} x {size} tokens'
            )
        if tensor.device != qkv.device:
            raise ValueError(f'{name} is on {tensor.device}, qkv on {qkv.device}: put all on one')
    return size
