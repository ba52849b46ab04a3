"""Moving averages of a model's weights, updated with few kernel launches."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn

from mtp.engine.finite import not_finite_buffers
from mtp.registry import MODELS


@MODELS.register_module()
class FastEMA(ExponentialMovingAverage):
    """mmengine's ``ExponentialMovingAverage`` that updates all parameters in one call.

    The original updates one tensor at a time, and waits for the device to learn whether this is the
    first update; this one waits in the first update alone. For mmengine's hook, which also
    validates with the average and saves it::

        custom_hooks = [dict(type=EMAHook, ema_type=FastEMA, momentum=0.0002)]

    Args:
        model: model whose weights are averaged.
        momentum: weight of the new parameters in each update, 0 to 1.
        kwargs: further arguments of mmengine's class: ``interval``, ``device``, ``update_buffers``.

    Attributes:
        skipped: boolean tensor, whether the last update of the weights was skipped, in which case
            the average and ``steps`` stay as they are. :class:`mtp.engine.BadUpdatesHook` sets it;
            None without that hook.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.0002, **kwargs: Any) -> None:
        super().__init__(model, momentum, **kwargs)
        self._started = False  # whether `steps` is known to be above 0
        self.skipped: Tensor | None = None
        self._copied: set[str] = set()  # buffers not to average, as inf - inf is NaN

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of ``model``."""
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        if self.skipped is None:
            wanted = torch.ones_like(self.steps, dtype=torch.bool)
        else:
            wanted = ~self.skipped.to(self.steps.device)
        started = self._started
        if not started:
            if self.update_buffers:
                self._copied = set(not_finite_buffers(model))
            steps, first = divmod(int(2 * self.steps + wanted), 2)  # one wait for both
            if first and not steps:
                names = list(self.avg_parameters)
                torch._foreach_copy_(
                    [self.avg_parameters[name].detach() for name in names],
                    [source[name].detach() for name in names],
                )
            started, self._started = steps > 0, steps + first > 0
        if started:
            self._move(source, wanted & (self.steps % self.interval == 0))
        for name in self._copied:
            self.avg_parameters[name].copy_(source[name])
        if not self.update_buffers and (buffers := list(self.module.buffers())):
            torch._foreach_copy_(buffers, list(model.buffers()))
        self.steps += wanted

    def _move(self, source: Mapping[str, Tensor], wanted: Tensor) -> None:
        """Move the average a step where ``wanted``, a boolean of the device, is true."""
        pairs = [
            (average.detach(), source[name].detach().to(average.device))
            for name, average in self.avg_parameters.items()
            if average.is_floating_point() and name not in self._copied
        ]
        averages, values = map(list, zip(*pairs))
        # What `_foreach_lerp_` computes, which takes no weight from the device.
        ways = torch._foreach_sub(values, averages)
        torch._foreach_mul_(ways, wanted)
        torch._foreach_add_(averages, ways, alpha=self.momentum)
