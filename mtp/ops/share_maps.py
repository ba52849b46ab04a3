"""Feature maps for several consumers, whose gradients are all added at once.

Autograd adds the gradients of a map two at a time, with a launch and a rounding each; a convolution
adds its bias in a launch of its own, and sums the bias's gradient in another. Here all maps of a
pyramid together take one launch in the forward pass and two in the backward pass.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mtp.ops.dispatch import twin_of, use_triton


def share_maps(
    maps: Sequence[Tensor],
    consumers: int,
    biases: Sequence[Tensor] = (),
    subsampled: int = 0,
    dtype: torch.dtype | None = None,
) -> list[tuple[Tensor, ...]]:
    """Add biases to maps, and give each consumer its own views of the results.

    The gradients of all consumers are added in float32 or wider, and rounded once. One that has no
    gradient costs nothing. No consumer may change its views in place.

    Args:
        maps: maps ``(B, C, h, w)``, each with its own C, h and w. Kernels take channels-last ones
            as they are, and copy others.
        consumers: number of consumers.
        biases: bias of each map, ``(C,)``, of its result's dtype; or none at all.
        subsampled: number of further maps, each of the even rows and columns of the one before.
        dtype: dtype of the results; None for that of each map.

    Returns:
        list[tuple[Tensor, ...]]: for each consumer all maps, and then the subsampled ones.

    Raises:
        ValueError: there are biases, but not one of each map and of its channels.
    """
    if biases and [*map(len, biases)] != [x.shape[1] for x in maps]:
        raise ValueError(
            f'maps of {[tuple(x.shape) for x in maps]} and biases of {[*map(len, biases)]} '
            'channels: give a bias for each map, or none'
        )
    last = len(maps) - 1
    # which map a result is of, and the step between its rows and columns in it
    origins = [(i, 1) for i in range(len(maps))]
    origins += [(last, 2**i) for i in range(1, subsampled + 1)]
    results = _Shared.apply(consumers, origins, dtype, len(maps), *maps, *biases)
    return [results[i : i + len(origins)] for i in range(0, len(results), len(origins))]


class _Shared(torch.autograd.Function):
    """Maps and then biases to the results of all consumers, one consumer after the other."""

    @staticmethod
    def forward(
        ctx: Any,
        consumers: int,
        origins: list[tuple[int, int]],
        dtype: torch.dtype | None,
        number: int,
        *operands: Tensor,
    ) -> tuple[Tensor, ...]:
        maps, biases = operands[:number], operands[number:]
        ctx.origins, ctx.number, ctx.needed = consumers * origins, number, ctx.needs_input_grad[4:]
        ctx.sizes, ctx.dtypes = [x.shape[2:] for x in maps], [x.dtype for x in maps]
        shared = [x.to(dtype or x.dtype) for x in maps]
        if biases:
            form: Callable[..., list[Tensor]] = share_maps_torch
            if use_triton(*shared):
                from mtp.ops.triton.share_maps import share_maps as form
            shared = form(shared, biases)
        results = [shared[i][..., ::step, ::step] for i, step in ctx.origins]
        ctx.mark_non_differentiable(
            *(x for x, (i, _) in zip(results, ctx.origins) if not any(ctx.needed[i::number]))
        )
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        results: list[Tensor | None] = [None] * len(ctx.needed)
        given = [(x, *origin) for x, origin in zip(grads, ctx.origins) if x is not None]
        if not given:
            return None, None, None, None, *results
        places = sorted({i for _, i, _ in given})
        dtypes = {i: x.dtype for x, i, _ in given}
        with_biases = any(ctx.needed[ctx.number :])
        form: Callable[..., list[Tensor]] = share_maps_backward_torch
        if use_triton(*(x for x, *_ in given)):
            from mtp.ops.triton.share_maps import share_maps_backward as form
        sums = form(
            [x for x, *_ in given],
            [places.index(i) for _, i, _ in given],
            [step for *_, step in given],
            [side for i in places for side in ctx.sizes[i]],
            [ctx.dtypes[i] == dtypes[i] for i in places],
            with_biases,
        )
        wanted = places + with_biases * [ctx.number + i for i in places]
        for i, value in zip(wanted, sums, strict=True):
            results[i] = value
        return None, None, None, None, *results


@twin_of('share_maps')
def share_maps_torch(maps: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Add a bias to each map in torch."""
    return [x + bias[:, None, None] for x, bias in zip(maps, biases)]


@twin_of('share_maps_backward')
def share_maps_backward_torch(
    grads: Sequence[Tensor],
    owners: Sequence[int],
    steps: Sequence[int],
    sizes: Sequence[int],
    rounded: Sequence[bool],
    with_biases: bool,
) -> list[Tensor]:
    """Add the gradients of each map, and sum the results over images and pixels, in torch.

    Args:
        grads: gradients of results, ``(B, C, h, w)``, at least one of each map.
        owners: number of the map that each of them is of.
        steps: step between its rows and columns in the map, pixels.
        sizes: height and width of each map in turn, ``[h_0, w_0, h_1, w_1, ...]``, pixels.
        rounded: whether each map's sum has the dtype of its gradients, else float32 or wider.
        with_biases: whether the gradients of the biases are wanted.

    Returns:
        list[Tensor]: gradients of the maps, ``(B, C, h, w)``, channels-last, and then of the
        biases, ``(C,)``, of the gradients' dtype.
    """
    firsts = [grads[owners.index(i)] for i in range(len(sizes) // 2)]
    totals = []
    for i, first in enumerate(firsts):
        dtype = torch.promote_types(first.dtype, torch.float32)
        total = first.new_zeros(*first.shape[:2], *sizes[2 * i : 2 * i + 2], dtype=dtype)
        total = total.contiguous(memory_format=torch.channels_last)
        for grad, owner, step in zip(grads, owners, steps):
            if owner == i:
                total[..., ::step, ::step] += grad
        totals.append(total)
    sums = [
        total.to(x.dtype) if narrow else total for total, x, narrow in zip(totals, firsts, rounded)
    ]
    if with_biases:
        sums += [total.sum((0, 2, 3)).to(x.dtype) for total, x in zip(totals, firsts)]
    return sums
