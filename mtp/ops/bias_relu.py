"""Bias and ReLU of a convolution's results, whose pixels become the rows of one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp.ops.dispatch import twin_of, use_triton


def bias_relu(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Add a bias to maps, apply a ReLU, and return their pixels as rows.

    On a GPU a convolution adds its bias in a launch of its own, so one without a bias followed by
    this operator saves that launch. Differentiable in all tensors; kept for the backward pass is
    the result. One kernel computes all maps, and two all gradients, where :mod:`mtp.ops.dispatch`
    chooses kernels.

    Args:
        maps: maps ``(B, C, h, w)`` of one dtype, each with its own h and w. Channels-last maps are
            taken as they are, others are copied.
        bias: number added to each channel, ``(C,)``; cast to the dtype of the maps, as autocast
            casts that of a convolution.

    Returns:
        Tensor: ``(B, sum of h * w, C)``: the pixels of an image's first map row by row, then those
        of the next; the dtype of the maps, computed in float32 or wider and rounded once.

    Raises:
        ValueError: the maps are not of one dtype and equally many images, or not of as many
            channels as the bias.
    """
    images, dtype = maps[0].shape[0], maps[0].dtype
    if any(x.shape[:2] != (images, *bias.shape) or x.dtype != dtype for x in maps):
        raise ValueError(
            f'maps of {[(*x.shape, x.dtype) for x in maps]} and a bias of {tuple(bias.shape)}: '
            'give each map the dtype and as many images as the first, and as many channels as the '
            'bias'
        )
    bias = bias.to(dtype)
    if use_triton(*maps):
        from mtp.ops.triton import bias_relu as kernels

        return kernels.bias_relu(maps, bias)
    return bias_relu_torch(maps, bias)


@twin_of('bias_relu')
def bias_relu_torch(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Compute :func:`bias_relu` in torch."""
    parts = [x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps]
    rows = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return (rows + bias).relu_()


@twin_of('bias_relu_backward')
def bias_relu_backward_torch(
    grad: Tensor, rows: Tensor, heights: Sequence[int], widths: Sequence[int]
) -> list[Tensor]:
    """Return the gradients of the maps by that of the rows, then that of the bias."""
    grad = grad.where(~(rows <= 0), 0)
    parts = grad.split([h * w for h, w in zip(heights, widths)], 1)
    maps = [
        part.unflatten(1, size).permute(0, 3, 1, 2).clone(memory_format=torch.channels_last)
        for part, *size in zip(parts, heights, widths)
    ]
    return [*maps, grad.sum((0, 1))]
