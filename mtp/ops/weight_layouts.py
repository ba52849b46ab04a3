"""Weights of convolutions cast and laid out channels last, or back, all at once.

On a GPU cuDNN convolves channels-last maps with channels-last weights. Others are copied in each
call, forward and backward, and so is a channels-last gradient, for a parameter that is contiguous.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtp.ops.dispatch import twin_of, use_triton


def lay_out_weights(
    weights: Sequence[Tensor], dtype: torch.dtype, channels_last: bool
) -> list[Tensor]:
    """Cast weights and change their layout; not differentiable.

    Args:
        weights: weights ``(O, I, kh, kw)`` or their gradients, each of a size of its own.
            Contiguous ones, or channels-last ones to be made contiguous, are taken as they are,
            others are copied first.
        dtype: dtype of the results.
        channels_last: whether the results are channels last, else contiguous.

    Returns:
        list[Tensor]: copies of the weights.
    """
    form: Callable[..., list[Tensor]] = lay_out_weights_torch
    if use_triton(*weights):
        from mtp.ops.triton.weight_layouts import lay_out_weights as form
    return form(weights, dtype, channels_last)


@twin_of('lay_out_weights')
def lay_out_weights_torch(
    weights: Sequence[Tensor], dtype: torch.dtype, channels_last: bool
) -> list[Tensor]:
    """Compute :func:`lay_out_weights` in torch."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [torch.empty_like(w, dtype=dtype, memory_format=layout).copy_(w) for w in weights]
