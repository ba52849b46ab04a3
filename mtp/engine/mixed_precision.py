"""The training step's precision, and gradient clipping that does not make the host wait."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mtp.registry import OPTIM_WRAPPERS

CHOICES = ('auto', 'on', 'off')


def autocast_dtype(amp: str) -> torch.dtype | None:
    """What a training step computes in, as :class:`MixedPrecisionOptimWrapper`'s ``amp`` says.

    Returns:
        ``torch.bfloat16``, or None for float32 throughout.

    Raises:
        ValueError: ``amp`` is none of ``'auto'``, ``'on'``, ``'off'``.
    """
    if amp not in CHOICES:
        raise ValueError(f"amp={amp!r}: must be 'auto', 'on' or 'off'")
    # CPUs without instructions for bfloat16 compute in it more slowly than in float32.
    supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    return torch.bfloat16 if amp == 'on' or amp == 'auto' and supported else None


@OPTIM_WRAPPERS.register_module()
class MixedPrecisionOptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with bfloat16 autocast, and without waiting for the device.

    bfloat16 has the range of float32, so nothing scales the loss. mmengine's ``AmpOptimWrapper``
    always scales and refuses to run without an accelerator.

    Args:
        optimizer: of the model.
        amp: ``'on'``: the forward pass runs under bfloat16 autocast; ``'off'``: in float32;
            ``'auto'``: under autocast on a GPU that computes in bfloat16.
        clip_grad: as in ``OptimWrapper``.

    Attributes:
        grad_norm: of the last update, before clipping, a tensor on the parameters' device; None
            without clipping by norm, and once ``mtp.engine.DeferredLogHook`` has taken it.

    Raises:
        ValueError: another ``amp``.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, amp: str = 'auto', clip_grad: dict | None = None
    ) -> None:
        super().__init__(optimizer, clip_grad=clip_grad)
        self.enabled = autocast_dtype(amp) is not None
        self.grad_norm: Tensor | None = None

    def start_update(self, batches: int) -> None:
        """Make the next ``batches`` backward passes one update, by the mean of their gradients."""
        self._accumulative_counts, self._inner_count, self._max_counts = batches, 0, -1

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, besides what ``OptimWrapper`` does for gradient accumulation."""
        with super().optim_context(model), autocast(enabled=self.enabled, dtype=torch.bfloat16):
            yield

    def _clip_grad(self) -> None:
        # mmengine's turns the norm into a number in every step.
        params = [
            param
            for group in self.optimizer.param_groups
            for param in group['params']
            if param.grad is not None
        ]
        norm = self.clip_func(params, **self.clip_grad_kwargs)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
