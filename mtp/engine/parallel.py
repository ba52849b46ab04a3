"""How a model is spread over processes: a copy on each (DDP), or shards (FSDP2).

``model_wrapper_cfg`` of a config chooses, on GPUs (NCCL) as on CPUs (gloo)::

    model_wrapper_cfg = dict(type=ReplicatedModel)                   # the default
    model_wrapper_cfg = dict(type=ShardedModel, processes_per_copy=8)
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
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
    return model.module if is_model_wrapper(model) else model


@MODEL_WRAPPERS.register_module()
class ReplicatedModel(MMDistributedDataParallel):
    """A whole copy on each process; gradients are averaged while the backward pass runs (DDP).

    Buffers are not broadcast: batch norm takes its statistics over all processes already. The
    graph is static, so that parameters which the loss never uses cost nothing, but they must be
    the same ones in every step.

    Args:
        module: the model.
        device_ids: this process's GPU, given by the runner; left out where the model is on the CPU.
        compress_gradients: send gradients in bfloat16, half the bytes.
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

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Leave gradients unreduced, to be reduced with those of a later step."""
        # A static graph is learnt from a first step that is reduced. Reducing early changes
        # nothing: the mean of sums is the sum of means.
        with super().no_sync() if self._knows_graph else nullcontext():
            yield

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """A training step, see mmengine."""
        log_vars = super().train_step(data, optim_wrapper)
        self._knows_graph = True
        return log_vars


def parts(model: nn.Module) -> tuple[list[nn.Module], list[Task]]:
    """Return the modules that FSDP wraps individually: backbone blocks and task decoders."""
    blocks = [
        module for name, module in model.named_modules() if name.split('.')[-2:-1] == ['blocks']
    ]
    return blocks, [module for module in model.modules() if isinstance(module, Task)]


@MODEL_WRAPPERS.register_module()
class ShardedModel(nn.Module):
    """Parameters, gradients and optimiser states in shards, gathered part by part (FSDP2).

    A part is a block of the backbone, a decoder, or what is left. Until :meth:`shard` the model is
    whole: :class:`mtp.engine.Runner` initialises its weights first, and never shards one that is
    only tested. In evaluation mode parts stay gathered, since processes may have different numbers
    of batches and would wait for each other.

    Args:
        module: the model.
        processes_per_copy: how many processes share one copy, e.g. those of one machine; None for
            all. Between copies gradient shards are averaged (HSDP).

    Raises:
        ValueError: in ``shard``, when the processes do not make whole copies.
    """

    def __init__(self, module: nn.Module, processes_per_copy: int | None = None) -> None:
        super().__init__()
        self.module = module
        self.processes_per_copy = processes_per_copy

    @property
    def is_sharded(self) -> bool:
        """Whether :meth:`shard` has been called."""
        return isinstance(self.module, FSDPModule)

    def shard(self, block_dtype: torch.dtype | None = None) -> None:
        """Replace the parameters by this process's shards, ``DTensor``s.

        Args:
            block_dtype: what the backbone's blocks are gathered and computed in on a GPU; the
                shards, the sums of gradients and all other parts stay float32. None: float32.
        """
        # Autocast on CPUs leaves norms in whatever comes, and they take no mixture of dtypes.
        on_gpu = next(self.module.parameters()).is_cuda
        settings: dict[str, Any] = dict(mesh=self._mesh())
        # Outputs and inputs keep their dtype: under autocast the residual stream is float32.
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
            for method in ('loss', 'predict'):  # what is called instead of forward
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

    def forward(self, *args, **kwargs) -> Any:
        return self.module(*args, **kwargs)

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """A training step as mmengine's models do it; gradients are reduced when they are used."""
        self.module.set_requires_gradient_sync(optim_wrapper.should_sync())
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: dict | tuple | list) -> list:
        """The predictions of a batch, without communication."""
        return self.module.val_step(data)

    def test_step(self, data: dict | tuple | list) -> list:
        """The predictions of a batch, without communication."""
        return self.module.test_step(data)

    def train(self, mode: bool = True) -> 'ShardedModel':
        """Set the mode; on evaluation all parts are gathered, on training let go again."""
        super().train(mode)
        if self.is_sharded:
            for part in (self.module, *itertools.chain(*parts(self.module))):
                if part is not self.module:  # which is needed first in the backward pass
                    part.set_reshard_after_forward(mode, recurse=False)
                part.reshard() if mode else part.unshard()
        return self
