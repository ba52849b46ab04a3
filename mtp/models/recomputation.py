"""Results that a backward pass computes again instead of keeping them."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtp.models.batch_norm import PerDatasetBatchNorm

R = TypeVar('R')
Finish = Callable[[Tensor], Tensor]


def recomputed(function: Callable[..., R], *inputs: Any) -> R:
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
    """Return maps, and the function that makes a convolution module's result of them.

    Of a :class:`PerDatasetBatchNorm`, alone or with a ReLU, the maps are what it normalises, and
    the function may be called again in :func:`recomputed`. Else the maps are the result.
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

    def of_inputs(*inputs: Any) -> Tensor:
        return module.conv(make_input(*inputs))

    x = recomputed(of_inputs, *inputs) if module.training else of_inputs(*inputs)
    return _with_finish(module, x)


def ends_with_dataset_norm(module: ConvModule) -> bool:
    """Return whether a module ends with :class:`PerDatasetBatchNorm`, alone or with a ReLU."""
    relu = not module.with_activation or type(module.activate) is nn.ReLU
    return isinstance(module.norm, PerDatasetBatchNorm) and relu


def _with_finish(module: ConvModule, x: Tensor) -> tuple[Tensor, Finish]:
    if ends_with_dataset_norm(module):
        return module.norm.deferred(x, module.with_activation)
    if module.norm is not None:  # it may update statistics, so it must not run again
        x = module.norm(x)
    return module.activate(x) if module.with_activation else x, nn.Identity()
