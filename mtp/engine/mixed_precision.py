"""Mixed precision, and gradient clipping that does not make the host wait for the device."""

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
    """Return the autocast dtype for a value of :class:`MixedPrecisionOptimWrapper`'s ``amp``.

    Returns:
        torch.dtype | None: ``torch.bfloat16``, or None for float32 without autocast.

    Raises:
        ValueError: ``amp`` is none of ``'auto'``, ``'on'``, ``'off'``.
    """
    if amp not in CHOICES:
        raise ValueError(f"amp={amp!r}: must be 'auto', 'on' or 'off'")
    # Without bfloat16 instructions, a CPU is slower in bfloat16 than in float32.
    supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    return torch.bfloat16 if amp == 'on' or amp == 'auto' and supported else None


@OPTIM_WRAPPERS.register_module()
class MixedPrecisionOptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with bfloat16 autocast, and without waiting for the device.

    bfloat16 has the range of float32, so the loss needs no scaling. mmengine's ``AmpOptimWrapper``
    always scales the loss, and refuses to run without an accelerator.

    Args:
        optimizer: optimiser of the model.
        amp: ``'on'``: the forward pass runs under bfloat16 autocast; ``'off'``: in float32;
            ``'auto'``: under autocast on a GPU that computes in bfloat16.
        clip_grad: settings of gradient clipping, as in ``OptimWrapper``.

    Attributes:
        grad_norm: gradient norm of the last update before clipping, a scalar on the parameters'
            device. None without clipping by norm, and after ``mtp.engine.DeferredLogHook`` has
            read it.

    Raises:
        ValueError: ``amp`` has another value.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, amp: str = 'auto', clip_grad: dict | None = None
    ) -> None:
        super().__init__(optimizer, clip_grad=clip_grad)
        self.enabled = autocast_dtype(amp) is not None
        self.grad_norm: Tensor | None = None

    def start_update(self, batches: int) -> None:
        """Combine the next ``batches`` backward passes into one update with their mean gradient."""
        self._accumulative_counts, self._inner_count, self._max_counts = batches, 0, -1

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast, and what ``OptimWrapper`` does for gradient accumulation."""
        with super().optim_context(model), autocast(enabled=self.enabled, dtype=torch.bfloat16):
            yield

    def _clip_grad(self) -> None:
        # mmengine's method converts the norm to a Python number, which waits for the device.
        params = [
            param
            for group in self.optimizer.param_groups
            for param in group['params']
            if param.grad is not None
        ]
        norm = self.clip_func(params, **self.clip_grad_kwargs)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
