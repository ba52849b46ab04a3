"""What rotated window attention needs besides queries, keys and values, on plain tensors.

Shapes as in :mod:`mtp.ops.rotated_window`; ``D`` channels of a token, windows of ``s x s`` tokens.

Source: D. Wang et al., "Advancing Plain Vision Transformer Towards Remote Sensing Foundation
Model", IEEE TGRS 2022 (arXiv:2208.03987), with the conventions of the released MTP models.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp.ops.dispatch import twin_of, use_triton
from mtp.ops.rotated_window import LARGEST_WINDOW, window_padding

Operands = tuple[Tensor, Tensor, Tensor, Tensor]

# Largest number of heads whose maps a program of the kernel can hold.
MOST_HEADS = 32


def window_operands(
    x: Tensor,
    grid: tuple[int, int],
    window_size: int,
    offset_weight: Tensor,
    offset_bias: Tensor,
    scale_weight: Tensor,
    scale_bias: Tensor,
    angle_weight: Tensor,
    angle_bias: Tensor,
    bias_table: Tensor,
) -> Operands:
    """Compute the transforms of all windows, and the bias of their logits.

    Each transform is an affine map of the window's mean token, after a leaky ReLU. The mean is over
    all ``s * s`` places of the window; padding counts as zeros. One kernel computes all of it where
    :mod:`mtp.ops.dispatch` chooses kernels, for windows of up to 8 x 8 tokens and up to 32 heads.

    Args:
        x: tokens of the grid, row-major, ``(B, H * W, D)``.
        grid: size ``(H, W)`` of the grid, tokens.
        window_size: side ``s`` of a window, tokens.
        offset_weight, offset_bias: map to the offsets ``(2 * heads, D, 1, 1)`` and
            ``(2 * heads,)``; x and y of a head are neighbours.
        scale_weight, scale_bias: map to the scales, like that of the offsets.
        angle_weight, angle_bias: map to the angles ``(heads, D, 1, 1)`` and ``(heads,)``.
        bias_table: bias by relative position ``((2 * s - 1)**2, heads)``; row
            ``(j - m + s - 1) * (2 * s - 1) + i - n + s - 1`` belongs to query ``(j, i)`` and key
            ``(m, n)`` of a window.

    Returns:
        Operands: offsets ``(B, heads, 2, n_h, n_w)``, scales of the same shape and angles
        ``(B, heads, n_h, n_w)``, in float32 or wider; bias ``(heads, s * s, s * s)``, the table's
        dtype. All are operands of :func:`mtp.ops.rotated_window.rotated_window_attention`.

    Raises:
        ValueError: shapes or devices do not fit together.
    """
    heads = _check(
        x,
        grid,
        window_size,
        (offset_weight, offset_bias, scale_weight, scale_bias, angle_weight, angle_bias),
        bias_table,
    )
    operands = (
        x,
        *grid,
        window_size,
        offset_weight,
        offset_bias,
        scale_weight,
        scale_bias,
        angle_weight,
        angle_bias,
        bias_table,
    )
    small = window_size <= LARGEST_WINDOW and heads <= MOST_HEADS
    if small and use_triton(x, offset_weight, bias_table):
        from mtp.ops.triton import window_operands as kernels

        return kernels.window_operands(*operands)[:4]
    return window_operands_torch(*operands)


def window_operands_torch(
    x: Tensor, height: int, width: int, window_size: int, *parameters: Tensor
) -> Operands:
    """Compute :func:`window_operands` in torch."""
    *maps, bias_table = parameters
    heads = bias_table.shape[1]
    padding = window_padding((height, width), window_size)
    feature_map = F.pad(x.transpose(1, 2).unflatten(2, (height, width)), padding)
    means = F.leaky_relu(F.avg_pool2d(feature_map, window_size))
    dtype = torch.promote_types(x.dtype, torch.float32)
    offsets, scales, angles = (
        # dtypes as under autocast, which has ended when gradients are computed
        F.conv2d(means, weight.to(means.dtype), bias.to(means.dtype)).to(dtype)
        for weight, bias in zip(maps[::2], maps[1::2])
    )
    place = torch.arange(window_size, device=x.device)
    offset = place[:, None] - place + window_size - 1  # from key to query
    table = bias_table.unflatten(0, 2 * [2 * window_size - 1])
    bias = table[offset[:, None, :, None], offset[:, None, :]].flatten(2, 3).flatten(0, 1)
    return (
        offsets.unflatten(1, (heads, 2)),
        scales.unflatten(1, (heads, 2)),
        angles,
        bias.permute(2, 0, 1),
    )


@twin_of('window_operands')
def _twin(x: Tensor, height: int, width: int, size: int, *parameters: Tensor) -> tuple[Tensor, ...]:
    shape = x.shape[0], -(-height // size), -(-width // size), x.shape[2]
    # the means are unused: the backward pass also runs in the twin
    means = x.new_full(shape, float('nan'), dtype=torch.float32)
    return *window_operands_torch(x, height, width, size, *parameters), means


@twin_of('window_operands_backward')
def _backward_twin(
    x: Tensor, height: int, width: int, size: int, *operands: Tensor
) -> tuple[Tensor, ...]:
    *parameters, _means, grad_offsets, grad_scales, grad_angles, grad_bias = operands

    def function(x: Tensor, *parameters: Tensor) -> Operands:
        return window_operands_torch(x, height, width, size, *parameters)

    pull_back = torch.func.vjp(function, x, *parameters)[1]
    return pull_back((grad_offsets, grad_scales, grad_angles, grad_bias))


def _check(
    x: Tensor,
    grid: tuple[int, int],
    window_size: int,
    maps: tuple[Tensor, ...],
    bias_table: Tensor,
) -> int:
    """Return the number of heads after checking the arguments."""
    if x.dim() != 3 or x.shape[1] != grid[0] * grid[1]:
        raise ValueError(
            f'x of shape {tuple(x.shape)}: it takes (B, H * W, D) with {grid[0]} x {grid[1]} tokens'
        )
    heads, span = len(maps[5]), 2 * window_size - 1
    shapes = [(heads * n, *rest) for n in (2, 2, 1) for rest in ((x.shape[2], 1, 1), ())]
    names = [
        f'{kind}_{what}' for kind in ('offset', 'scale', 'angle') for what in ('weight', 'bias')
    ]
    for name, tensor, shape in (
        *zip(names, maps, shapes),
        ('bias_table', bias_table, (span**2, heads)),
    ):
        if tensor.shape != shape:
            raise ValueError(
                f'{name} of shape {tuple(tensor.shape)}: it takes {shape} with x of shape '
                f'{tuple(x.shape)}, {heads} heads and windows of {window_size} x {window_size} '
                'tokens'
            )
        if tensor.device != x.device:
            raise ValueError(f'{name} is on {tensor.device}, x on {x.device}: put all on one')
    return heads
