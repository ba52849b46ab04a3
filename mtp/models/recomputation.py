"""Results that a backward pass computes again instead of keeping them."""

from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Call a function, of which the backward pass keeps the inputs only.

    The backward pass calls the function again, up to the last operation whose inputs it needs. To
    keep the results of a product and recompute what is cheap, let the function end with the next
    product: that one does not run again.

    Args:
        function: function that draws no random numbers and changes no buffer, since it runs twice.
        inputs: arguments of the function.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def convolve_recomputed(
    module: ConvModule, make_input: Callable[..., Tensor], *inputs: Any
) -> Tensor:
    """Return ``module(make_input(*inputs))``; the backward pass makes the module's input again.

    Args:
        module: convolution with its norm and activation.
        make_input: function as for :func:`recomputed`.
        inputs: arguments of ``make_input``.
    """
    x = recomputed(lambda *inputs: module.conv(make_input(*inputs)), *inputs)
    if module.with_norm:  # outside: it updates its running statistics
        x = module.norm(x)
    return module.activate(x) if module.with_activation else x
