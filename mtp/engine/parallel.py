"""Distribution of a model over processes: a copy on each (DDP), or shards (FSDP2).

``model_wrapper_cfg`` of a config selects one, on GPUs (NCCL) and on CPUs (gloo)::

    model_wrapper_cfg = dict(type=ReplicatedModel)                   # the default
    model_wrapper_cfg = dict(type=ShardedModel, processes_per_copy=8)
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModel, MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from mtp.models.tasks import Task
from mtp.registry import MODEL_WRAPPERS


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model itself, without the wrapper of distributed training."""
    if is_model_wrapper(model):
        return model.module  # type: ignore[return-value]  # a wrapper's module
    return model


@MODEL_WRAPPERS.register_module()
class ReplicatedModel(MMDistributedDataParallel):
    """DDP: a full copy per process; gradients are averaged during the backward pass.

    Buffers are not broadcast: batch norm already computes its statistics over all processes. The
    graph is static, so parameters that the loss never uses cost nothing, but they must be the same
    in every step.

    Args:
        module: model to replicate.
        device_ids: index of this process's GPU, set by the runner; ignored for a model on the CPU.
        compress_gradients: True to send gradients in bfloat16, which halves the traffic.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list[int] | None = None,
        compress_gradients: bool = False,
    ) -> None:
        on_gpu = next(module.parameters()).is_cuda
        super().__init__(
            module,
            device_ids=device_ids if on_gpu else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=True,
        )
        if compress_gradients:
            self.register_comm_hook(None, bf16_compress_hook)
        self._knows_graph = False
        self._own: _OwnGradients | None = None

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Skip the reduction of gradients; a later step reduces them with its own."""
        if self._knows_graph:
            with super().no_sync():
                yield
            return
        # DDP learns a static graph in a first step with reduction, which is taken back afterwards:
        # the sum of means differs from the mean of sums in rounding, and thus a resumed run from
        # the uninterrupted one.
        self._own = _OwnGradients(self)
        yield

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """Run a training step as in mmengine."""
        log_vars = super().train_step(data, optim_wrapper)
        self._knows_graph = True
        if self._own is not None:
            self._own.restore()
            self._own = None
        return log_vars


class _OwnGradients:
    """Gradients that this process computes in its next backward pass, before their reduction."""

    def __init__(self, module: nn.Module) -> None:
        self._gradients: dict[nn.Parameter, Tensor] = {}
        self._handles = [
            parameter.register_hook(partial(self._keep, parameter))
            for parameter in module.parameters()
            if parameter.requires_grad
        ]

    def _keep(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        known = self._gradients.get(parameter)
        self._gradients[parameter] = gradient if known is None else known + gradient

    @torch.no_grad()
    def restore(self) -> None:
        """Put them in the place of the reduced ones."""
        for handle in self._handles:
            handle.remove()
        for parameter, gradient in self._gradients.items():
            if parameter.grad is not None:
                parameter.grad.copy_(gradient)


def parts(model: nn.Module) -> tuple[list[nn.Module], list[Task]]:
    """Return the modules that FSDP wraps individually: backbone blocks and task decoders."""
    blocks = [
        module for name, module in model.named_modules() if name.split('.')[-2:-1] == ['blocks']
    ]
    return blocks, [module for module in model.modules() if isinstance(module, Task)]


@MODEL_WRAPPERS.register_module()
class ShardedModel(nn.Module):
    """FSDP2: parameters, gradients and optimiser states in shards, gathered part by part.

    A part is a block of the backbone, a decoder, or the rest of the model. Until :meth:`shard` is
    called, the model is unsharded: :class:`mtp.engine.Runner` initialises its weights first, and
    never shards a model that is only tested. In evaluation mode parts stay gathered: processes may
    have different numbers of batches and would otherwise wait for each other.

    Args:
        module: model to shard.
        processes_per_copy: number of processes that share one copy, e.g. those of one machine; None
            for all. Gradient shards are averaged over the copies (HSDP).

    Raises:
        ValueError: on ``shard``, the number of processes is no multiple of ``processes_per_copy``.
    """

    def __init__(self, module: BaseModel, processes_per_copy: int | None = None) -> None:
        super().__init__()
        self.module: BaseModel = module
        self.processes_per_copy = processes_per_copy

    @property
    def is_sharded(self) -> bool:
        """Whether :meth:`shard` has been called."""
        return isinstance(self.module, FSDPModule)

    def shard(self, block_dtype: torch.dtype | None = None) -> None:
        """Replace the parameters by this process's shards, ``DTensor``s.

        Args:
            block_dtype: dtype in which the backbone's blocks are gathered and computed on a GPU;
                None: float32. Shards, gradient sums and all other parts stay float32.
        """
        # Autocast on CPUs does not cast inputs of norms, which refuse mixed dtypes.
        on_gpu = next(self.module.parameters()).is_cuda
        settings: dict[str, Any] = dict(mesh=self._mesh())
        # Inputs and outputs keep their dtype: under autocast the residual stream is float32.
        policy = MixedPrecisionPolicy(
            param_dtype=block_dtype if on_gpu else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        blocks, decoders = parts(self.module)
        for block in blocks:
            fully_shard(block, mp_policy=policy, **settings)
        for decoder in decoders:
            fully_shard(decoder, **settings)
            for method in ('loss', 'predict'):  # called instead of forward
                register_fsdp_forward_method(decoder, method)
        fully_shard(self.module, **settings)

    def _mesh(self) -> DeviceMesh:
        device = next(self.module.parameters()).device.type
        world = torch.distributed.get_world_size()
        size = self.processes_per_copy or world
        if world % size:
            raise ValueError(
                f'{world} processes do not make whole copies of '
                f'processes_per_copy={size}: give a divisor'
            )
        if size == world:
            return init_device_mesh(device, (world,))
        return init_device_mesh(
            device, (world // size, size), mesh_dim_names=('replicate', 'shard')
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """Run a training step as mmengine's models do; reduce gradients only before an update.

        Where they must stay in their memory, they are reduced after each batch: until then they are
        not the parameters' gradients.
        """
        stay = getattr(optim_wrapper, 'keep_gradients', False)
        self.module.set_requires_gradient_sync(stay or optim_wrapper.should_sync())
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: dict | tuple | list) -> list:
        """Return the predictions of a batch, without communication."""
        return self.module.val_step(data)

    def test_step(self, data: dict | tuple | list) -> list:
        """Return the predictions of a batch, without communication."""
        return self.module.test_step(data)

    def train(self, mode: bool = True) -> 'ShardedModel':
        """Set the mode; gather all parts for evaluation, and free them again for training."""
        super().train(mode)
        if self.is_sharded:
            inner: list[Any] = list(itertools.chain(*parts(self.module)))  # FSDPModules
            for part in (self.module, *inner):
                if part is not self.module:  # the backward pass needs the root first
                    part.set_reshard_after_forward(mode, recurse=False)
                part.reshard() if mode else part.unshard()
        return self
