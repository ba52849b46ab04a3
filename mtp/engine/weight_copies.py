"""Weights in the dtype of autocast, cast at once."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmcv.cnn.bricks.wrappers import Conv2d, ConvTranspose2d, Linear
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from mtp.engine.parallel import parts, unwrap
from mtp.models.backbones.vit_rvsa import PatchProjection
from mtp.models.deferred_bias import DeferredBiasConv2d, RectifiedConvTranspose2d
from mtp.models.tasks import Task
from mtp.ops import lay_out_weights
from mtp.ops.dispatch import use_triton

# Modules that do nothing with their weights but call an operator that autocast runs in its dtype;
# mmcv's are torch's, except with empty tensors in old versions of torch. Another subclass may read
# its weights in another way, so it keeps them, as does a module with a hook that makes its weights
# before each call.
CAST_TYPES = (
    nn.Linear,
    nn.Conv2d,
    nn.ConvTranspose2d,
    Conv2d,
    ConvTranspose2d,
    Linear,
    DeferredBiasConv2d,
    RectifiedConvTranspose2d,
    PatchProjection,
)


class WeightCopies:
    """Copies of a model's weights that autocast would cast one by one.

    Autocast casts each weight and each bias in a launch of its own, and the gradient of each in
    another. Here all are cast in one, and all gradients in another at the end of the backward pass.
    With several processes the gradients of a part (a block of the backbone, the rest of the
    backbone, a decoder of the multi-task model) are, as soon as all of them are known: DDP can then
    exchange them. The numbers are autocast's, except that gradients of a weight that two modules
    share are added in float32. On a GPU the copies of convolutions' weights are channels last, as
    cuDNN takes them, by another launch in each direction.

    Other modules are left to autocast, and so are sharded parameters, which FSDP2 casts. A layer
    that is called where autocast is off, on float32, must be a subclass of its type.

    Args:
        model: model to train, or its wrapper.
        dtype: dtype of autocast.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._parts = _weights_by_part(unwrap(model))
        if self._parts and get_world_size() == 1:
            self._parts = [[*itertools.chain(*self._parts)]]
        self._copies: list[tuple[nn.Module, str, Tensor]] = []

    def make(self) -> None:
        """Cast the weights; gradients of the copies become gradients of the weights."""
        self._copies = []
        places = [*itertools.chain(*self._parts)]
        # not the copies in place
        weights: list[Any] = [module._parameters[name] for module, name in places]
        turned = [
            _is_copied_by_cudnn(module, weight) and use_triton(weight)
            for (module, _), weight in zip(places, weights)
        ]
        copies = _cast(weights, self.dtype, turned, channels_last=True)
        first = 0
        for part in self._parts:
            own = slice(first, first + len(part))
            found = _Copied.apply(copies[own], turned[own], *weights[own])
            self._copies += [(*place, copy) for place, copy in zip(part, found)]
            first += len(part)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the modules find the copies in place of their weights.

        An attribute of an instance comes before its parameter of the same name. Parameters, state
        dicts and optimisers do not see it.
        """
        copies = self._copies
        for module, name, copy in copies:
            module.__dict__[name] = copy
        try:
            yield
        finally:
            for module, name, _ in copies:
                module.__dict__.pop(name, None)

    @property
    def tensors(self) -> list[Tensor]:
        """The copies made last."""
        return [copy for *_, copy in self._copies]

    def free(self) -> None:
        """Forget the copies."""
        self._copies = []


def _weights_by_part(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Return the module and the name of each weight to cast, for each part that has any."""
    backbone = getattr(model, 'backbone', None)
    if backbone is None or any(isinstance(param, DTensor) for param in model.parameters()):
        return []
    tasks = [module for module in model.modules() if isinstance(module, Task)]
    known: set[nn.Module] = set()
    found = []
    for part in (*parts(backbone)[0], backbone, *tasks):
        modules = [
            module
            for module in part.modules()
            if type(module) in CAST_TYPES and not module._forward_pre_hooks and module not in known
        ]
        known.update(modules)
        found.append(
            [
                (module, name)
                for module in modules
                for name, param in module.named_parameters(recurse=False)
                if param.dtype == torch.float32
            ]
        )
    return [places for places in found if places]


def _is_copied_by_cudnn(module: nn.Module, weight: Tensor) -> bool:
    """Return whether a convolution of channels-last maps would copy its weight in each call."""
    return (
        weight.dim() == 4
        and not isinstance(module, PatchProjection)
        and not weight.is_contiguous(memory_format=torch.channels_last)
    )


class _Copied(torch.autograd.Function):
    """Weights to the copies that were made of them; casts the gradients of all copies at once.

    Those of copies that were turned channels last are turned back.
    """

    @staticmethod
    def forward(
        ctx: Any, copies: list[Tensor], turned: list[bool], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        frozen = [c for c, needed in zip(copies, ctx.needs_input_grad[2:]) if not needed]
        ctx.mark_non_differentiable(*frozen)
        ctx.set_materialize_grads(False)
        ctx.turned = turned
        return tuple(copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [(grad, turn) for grad, turn in zip(grads, ctx.turned) if grad is not None]
        tensors, turned = ([*kind] for kind in zip(*given)) if given else ([], [])
        found = iter(_cast(tensors, torch.float32, turned, channels_last=False))
        return None, None, *(None if grad is None else next(found) for grad in grads)


@torch.no_grad()
def _cast(
    tensors: list[Tensor], dtype: torch.dtype, turned: list[bool], channels_last: bool
) -> list[Tensor]:
    """Cast tensors in two launches: those that are turned channels last, or back, and the rest."""
    kept = [tensor for tensor, turn in zip(tensors, turned) if not turn]
    results = [torch.empty_like(tensor, dtype=dtype) for tensor in kept]
    if kept:
        torch._foreach_copy_(results, kept)
    others = [tensor for tensor, turn in zip(tensors, turned) if turn]
    if others:
        others = lay_out_weights(others, dtype, channels_last)
    of_kind = iter(results), iter(others)
    return [next(of_kind[turn]) for turn in turned]
