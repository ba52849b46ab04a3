"""Mixed precision, gradient clipping and skipped updates, without waiting for the device."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mtp.engine.finite import SavedBuffers, is_not_finite, not_finite_buffers
from mtp.engine.learning_rates import DeviceRates
from mtp.engine.loss_scale import LossScale
from mtp.engine.weight_copies import WeightCopies
from mtp.ops.value_checks import values_unchecked
from mtp.registry import OPTIM_WRAPPERS

CHOICES = ('auto', 'on', 'off')
DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


def autocast_dtype(amp: str, dtype: str = 'bfloat16') -> torch.dtype | None:
    """Return the autocast dtype of a training step.

    Args:
        amp: ``amp`` of :class:`MixedPrecisionOptimWrapper`.
        dtype: ``dtype`` of the same.

    Returns:
        torch.dtype | None: ``torch.bfloat16`` or ``torch.float16``; None for float32 without
        autocast.

    Raises:
        ValueError: ``amp`` is none of ``'auto'``, ``'on'``, ``'off'``, or another ``dtype``.
    """
    if amp not in CHOICES:
        raise ValueError(f"amp={amp!r}: must be 'auto', 'on' or 'off'")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: must be 'bfloat16' or 'float16'")
    # Without bfloat16 instructions, a CPU is slower in bfloat16 than in float32.
    supported = torch.cuda.is_available() and (
        dtype == 'float16' or torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return DTYPES[dtype] if amp == 'on' or amp == 'auto' and supported else None


@OPTIM_WRAPPERS.register_module()
class MixedPrecisionOptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with autocast, which skips bad updates without a wait.

    An update is skipped on the device where a loss, the norm of the gradients or a buffer becomes
    NaN or infinite on any process: parameters, states of the optimiser and persistent buffers
    (batch norm's running statistics) stay as they were before the first batch of the update.
    Optimisers that cannot skip by themselves (only torch's with ``fused=True`` can) wait for the
    device once in every update.

    bfloat16 has the range of float32, so the loss needs no scaling; for float16
    :class:`LossScale` scales it. mmengine's ``AmpOptimWrapper`` always scales the loss, and refuses
    to run without an accelerator.

    Args:
        optimizer: optimiser of the model.
        amp: ``'on'``: the forward pass runs under autocast; ``'off'``: in float32; ``'auto'``:
            under autocast on a GPU that computes in ``dtype``.
        clip_grad: settings of gradient clipping, as in ``OptimWrapper``.
        dtype: autocast dtype, ``'bfloat16'`` or ``'float16'``.

    Attributes:
        grad_norm: gradient norm of the last update before clipping, a scalar on the parameters'
            device. None without clipping by norm, and after ``mtp.engine.DeferredLogHook`` has
            read it.
        outcome: three flags (0 or 1) of the last update, a float tensor ``(3,)``: it was skipped; a
            loss or a buffer of this process was not finite; float16 gradients overflowed, so that
            the scale of the loss was reduced. None before the first update.
        skipped: whether the last update was skipped, a boolean scalar on the device; None before
            the first update.
        rates: learning rates that the optimiser reads from the device; None to read its own.
        keep_gradients: whether gradients are set to 0 after an update, in the memory that they
            have, and not freed.

    Raises:
        ValueError: ``amp`` or ``dtype`` has another value.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        amp: str = 'auto',
        clip_grad: dict | None = None,
        dtype: str = 'bfloat16',
    ) -> None:
        super().__init__(optimizer, clip_grad=clip_grad)
        chosen = autocast_dtype(amp, dtype)
        self.enabled = chosen is not None
        self.dtype = DTYPES[dtype]
        self.loss_scale = LossScale() if chosen is torch.float16 else None
        self.grad_norm: Tensor | None = None
        self.outcome: Tensor | None = None
        self.skipped: Tensor | None = None
        self.rates: DeviceRates | None = None
        self.keep_gradients = False
        self._losses: dict[int, Tensor] = {}  # of the batches of an update, by their number
        self._saved: SavedBuffers | None = None
        self._began: dict[str, bool] | None = None
        self._copies: WeightCopies | None = None

    def start_update(self, batches: int) -> None:
        """Combine the next ``batches`` backward passes into one update with their mean gradient."""
        self._accumulative_counts, self._inner_count, self._max_counts = batches, 0, -1

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast, and what ``OptimWrapper`` does for gradient accumulation."""
        if self._inner_count % self._accumulative_counts == 0:
            if self._began is None:  # one wait, before the first update
                self._began = not_finite_buffers(model)
            if self._saved is None or not self._saved.save():
                self._saved = SavedBuffers(model, self._began)
        # mmengine's autocast refuses float16 on CPUs, on which torch has it.
        autocast = torch.autocast(get_device(), enabled=self.enabled, dtype=self.dtype)
        with super().optim_context(model), autocast, values_unchecked(), self._cast_weights(model):
            yield

    def _cast_weights(self, model: nn.Module) -> AbstractContextManager:
        """Return a context in which the model finds its weights cast, where autocast is on."""
        if not self.enabled:
            return nullcontext()
        if self._copies is None:
            self._copies = WeightCopies(model, self.dtype)
        self._copies.make()
        return self._copies.in_place()

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Compute gradients as mmengine does, and keep the loss for the check."""
        number = self._accumulative_counts
        if number not in self._losses:
            self._losses[number] = loss.new_zeros(number)
        self._losses[number][self._inner_count % number].copy_(loss.detach())
        if self._copies is None:
            super().backward(loss, **kwargs)
            return
        try:
            # activations that are computed again take the weights of the forward pass
            with self._copies.in_place():
                super().backward(loss, **kwargs)
        finally:
            self._copies.free()

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Divide the loss as mmengine does, and scale it for float16."""
        loss = super().scale_loss(loss)
        return loss if self.loss_scale is None else self.loss_scale.scale(loss)

    def step(self, **kwargs: Any) -> None:
        """Update the weights, unless a loss, a buffer or the norm of the gradients is bad."""
        params = [
            param
            for group in self.optimizer.param_groups
            for param in group['params']
            if param.grad is not None
        ]
        if self.loss_scale is not None:
            self.loss_scale.unscale(_gradients(params))
        norm = self._norm_and_clip(params)
        here, norm_is_bad = self._what_is_bad(norm)
        bad_forward, bad_gradient = self._over_processes(torch.stack([here, norm_is_bad]).float())
        self.skipped = (bad_forward + bad_gradient).bool()
        self._step_unless(self.skipped, kwargs)
        if self._saved is not None:
            self._saved.restore(self.skipped)
        reduced = torch.zeros_like(self.skipped)
        if self.loss_scale is not None:
            reduced = self.loss_scale.update(bad_forward.bool(), bad_gradient.bool())
        self.outcome = torch.stack([self.skipped, here, reduced]).float()

    def zero_grad(self, **kwargs: Any) -> None:
        """Set the gradients to 0, or free them."""
        super().zero_grad(set_to_none=not self.keep_gradients, **kwargs)

    def _what_is_bad(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether a loss or a buffer, and whether the norm, is not finite."""
        losses = self._losses.get(self._accumulative_counts)
        if losses is None:
            losses = norm.new_zeros(1)
        # without gradients the norm is a number on the CPU
        bad = is_not_finite(torch.cat([losses, norm.to(losses).reshape(1)]))
        buffers = self._saved.become_not_finite() if self._saved is not None else []
        return torch.cat([bad[:-1], *(flag.reshape(1) for flag in buffers)]).any(), bad[-1]

    def state_dict(self) -> dict:
        """Return mmengine's state, and for float16 the scale of the loss."""
        state = super().state_dict()
        if self.loss_scale is not None:
            state['loss_scale'] = self.loss_scale.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load mmengine's state, and the scale of the loss where this run uses one."""
        state = state_dict.pop('loss_scale', None)
        if state is not None and self.loss_scale is not None:
            self.loss_scale.load_state_dict(state)
        super().load_state_dict(state_dict)

    def _norm_and_clip(self, params: Sequence[Tensor]) -> Tensor:
        """Return the norm of the gradients before clipping."""
        # mmengine's method converts the norm to a Python number, which waits for the device.
        if self.clip_grad_kwargs and self.grad_name == 'grad_norm':
            self.grad_norm = _whole(self.clip_func(params, **self.clip_grad_kwargs))
            return self.grad_norm
        norm = _whole(torch.nn.utils.get_total_norm(_gradients(params)))
        if self.clip_grad_kwargs:  # by value, which would make infinite gradients finite
            self.clip_func(params, **self.clip_grad_kwargs)
        return norm

    @staticmethod
    def _over_processes(flags: Tensor) -> Tensor:
        """Return the flags that any process has set."""
        if get_world_size() > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return flags

    def _step_unless(self, skipped: Tensor, kwargs: dict) -> None:
        """Let the optimiser do its step, or leave all as it is."""
        optimizer = self.optimizer
        if getattr(optimizer, '_step_supports_amp_scaling', False):
            # The way of torch's GradScaler: kernels read the flag on the device.
            optimizer.grad_scale, optimizer.found_inf = None, skipped.float()
            with nullcontext() if self.rates is None else self.rates.in_use():
                optimizer.step(**kwargs)
            del optimizer.grad_scale, optimizer.found_inf
            return
        if self.outcome is None:
            print_log(
                f'{type(optimizer).__name__} waits for the device once in every update, to know '
                'whether its gradients are finite: fused=True, where it has that, spares it this',
                'current',
            )
        if not skipped.item():
            optimizer.step(**kwargs)


def _gradients(params: Sequence[Tensor]) -> list[Tensor]:
    return [param.grad for param in params if param.grad is not None]


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
