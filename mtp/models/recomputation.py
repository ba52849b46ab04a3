"""Results that a backward pass computes again instead of keeping them."""

from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtp.models.batch_norm import PerDatasetBatchNorm

Finish = Callable[[Tensor], Tensor]


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


def convolve(module: ConvModule, x: Tensor) -> tuple[Tensor, Finish]:
    """Return the maps of a convolution, and the function that makes the module's result of them.

    The function is the module's norm and activation as far as they may run again.
    """
    return _with_finish(module, module.conv(x))


def convolve_recomputed(
    module: ConvModule, make_input: Callable[..., Tensor], *inputs: Any
) -> tuple[Tensor, Finish]:
    """Do as :func:`convolve` with ``make_input(*inputs)``, made again by the backward pass.

    Args:
        module: convolution with its norm and activation.
        make_input: function as for :func:`recomputed`.
        inputs: arguments of ``make_input``.
    """
    return _with_finish(
        module, recomputed(lambda *inputs: module.conv(make_input(*inputs)), *inputs)
    )


def _with_finish(module: ConvModule, x: Tensor) -> tuple[Tensor, Finish]:
    norm = module.norm
    if isinstance(norm, PerDatasetBatchNorm) and (norm.relu or not module.with_activation):
        return norm.deferred(x)
    if norm is not None:  # it may update statistics, so it must not run again
        x = norm(x)
    return module.activate(x) if module.with_activation else x, nn.Identity()
