"""Averages of a map over grids of several sizes, as pyramid pooling takes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtp.ops.deterministic import adaptive_avg_pool2d
from mtp.ops.dispatch import twin_of, use_triton


def adaptive_pools(x: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Average-pool a map to several sizes.

    Equal to ``F.adaptive_avg_pool2d`` for each size, and differentiable. One kernel computes all of
    it, and another the gradient, where :mod:`mtp.ops.dispatch` chooses kernels and no size exceeds
    the map.

    Args:
        x: map ``(B, C, H, W)``; a channels-last one is taken as it is, others are copied.
        sides: height and width of each result, pixels.

    Returns:
        list[Tensor]: ``(B, C, side, side)`` for each side, the dtype of ``x``; computed in float32
        or wider, by the kernel channels-last.
    """
    if max(sides) <= min(x.shape[2:]) and use_triton(x):
        from mtp.ops.triton import adaptive_pools as kernels

        return kernels.adaptive_pools(x, sides)
    return adaptive_pools_torch(x, sides)


@twin_of('adaptive_pools')
def adaptive_pools_torch(x: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Compute :func:`adaptive_pools` in torch."""
    return [adaptive_avg_pool2d(x, (side, side)) for side in sides]


@twin_of('adaptive_pools_backward')
def adaptive_pools_backward_torch(grads: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return the gradient of the map, ``(B, C, height, width)``."""

    def pool(x: Tensor) -> list[Tensor]:
        return adaptive_pools_torch(x, [grad.shape[2] for grad in grads])

    x = grads[0].new_empty(*grads[0].shape[:2], height, width)
    return torch.func.vjp(pool, x)[1]([*grads])[0]
