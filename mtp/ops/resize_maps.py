"""Bilinear resizing of maps to one size, with their concatenation or an addition."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp.ops.dispatch import gradients, twin_of, use_triton


def resize_maps(
    maps: Sequence[Tensor],
    size: Sequence[int],
    addend: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Resize maps bilinearly, and concatenate their channels.

    Equal to ``torch.cat`` of ``F.interpolate`` of each map, and differentiable in all tensors. One
    kernel computes all of it, and another all gradients, where :mod:`mtp.ops.dispatch` chooses
    kernels, without aligned corners.

    Args:
        maps: maps ``(B, C, h, w)``, each with its own C, h and w. Channels-last maps are taken as
            they are, others are copied.
        size: height and width of the result, pixels.
        addend: map that is added to the result, of its shape, or None.
        align_corners: whether the centres of the outer pixels stay in place instead of their edges.

    Returns:
        Tensor: ``(B, sum of C, height, width)``, the widest dtype of the operands; computed in
        float32 or wider, by kernels channels-last. Under autocast, torch's form is float32.

    Raises:
        ValueError: the maps are not of equally many images, or the addend is not of the result's
            shape.
    """
    height, width = size
    shape = maps[0].shape[0], sum(x.shape[1] for x in maps), height, width
    if any(x.shape[0] != shape[0] for x in maps) or addend is not None and addend.shape != shape:
        raise ValueError(
            f'maps of {[tuple(x.shape) for x in maps]} make {shape}: give each as many images, and '
            'an addend of that shape'
        )
    operands = maps if addend is None else (*maps, addend)
    if not align_corners and use_triton(*operands):
        from mtp.ops.triton import resize_maps as kernels

        return kernels.resize_maps(maps, height, width, addend)
    return resize_maps_torch(maps, height, width, addend, align_corners)


@twin_of('resize_maps')
def resize_maps_torch(
    maps: Sequence[Tensor],
    height: int,
    width: int,
    addend: Tensor | None,
    align_corners: bool = False,
) -> Tensor:
    """Compute :func:`resize_maps` in torch."""
    size = height, width
    resized = [
        x
        if x.shape[2:] == size
        else F.interpolate(x, size, mode='bilinear', align_corners=align_corners)
        for x in maps
    ]
    out = torch.cat(resized, 1) if len(resized) > 1 else resized[0]
    return out if addend is None else addend + out


@twin_of('resize_maps_backward')
def resize_maps_backward_torch(
    grad: Tensor,
    starts: Sequence[int],
    channels: Sequence[int],
    heights: Sequence[int],
    widths: Sequence[int],
) -> list[Tensor]:
    """Return the gradients of maps by the channels of the result that are theirs."""

    def enlarge(x: Tensor) -> Tensor:
        height, width = grad.shape[2:]
        return resize_maps_torch([x], height, width, None)

    return [
        gradients(enlarge, (grad.new_empty(len(grad), c, h, w),), grad[:, first : first + c])[0]
        for first, c, h, w in zip(starts, channels, heights, widths)
    ]
