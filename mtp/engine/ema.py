"""Moving averages of a model's weights, updated with few kernel launches."""

from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mtp.registry import MODELS


@MODELS.register_module()
class FastEMA(ExponentialMovingAverage):
    """mmengine's ``ExponentialMovingAverage`` that updates all parameters in one call.

    The original updates one tensor at a time, and waits for the device to learn whether this is the
    first update. For mmengine's hook, which also validates with the average and saves it::

        custom_hooks = [dict(type=EMAHook, ema_type=FastEMA, momentum=0.0002)]

    Args:
        model: model whose weights are averaged.
        momentum: weight of the new parameters in each update, 0 to 1.
        kwargs: further arguments of mmengine's class: ``interval``, ``device``, ``update_buffers``.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.0002, **kwargs: Any) -> None:
        super().__init__(model, momentum, **kwargs)
        self._average = get_ema_multi_avg_fn(1 - momentum)
        self._updates: int | None = None  # `steps`, read from the device once

    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of ``model``."""
        if self._updates is None:
            self._updates = int(self.steps)
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        pairs = [
            (average.detach(), source[name].detach())
            for name, average in self.avg_parameters.items()
            if self._updates == 0 or average.is_floating_point()
        ]
        averages, values = map(list, zip(*pairs))
        if self._updates == 0:
            torch._foreach_copy_(averages, values)
        elif self._updates % self.interval == 0:
            self._average(averages, [v.to(a.device) for a, v in zip(averages, values)], self.steps)
        if not self.update_buffers and (buffers := list(self.module.buffers())):
            torch._foreach_copy_(buffers, list(model.buffers()))
        self._updates += 1
        self.steps += 1
