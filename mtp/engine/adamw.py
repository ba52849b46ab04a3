"""AdamW for updates that a flag on the device may skip."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.optimizer import ParamsT

from mtp.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class FusedAdamW(AdamW):
    """torch's fused AdamW, which counts the steps of all parameters at once.

    torch counts them in two launches for each group: one step more and, where the update is
    skipped, one less. Layer decay makes some thirty groups. Numbers, options and states are those
    of ``torch.optim.AdamW``, and either class loads the state of the other.

    Args:
        params: parameters or groups of them.
        fused: whether to use torch's fused kernels; without, this is ``torch.optim.AdamW``.
        kwargs: other options of ``torch.optim.AdamW``.
    """

    def __init__(self, params: ParamsT, fused: bool = True, **kwargs: Any) -> None:
        super().__init__(params, fused=fused, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; of an optimiser that was not fused too, whose counters are on the CPU."""
        if self.defaults['fused']:
            groups = [dict(group, fused=True) for group in state_dict['param_groups']]
            state_dict = dict(state_dict, param_groups=groups)
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have gradients, unless ``self.found_inf`` is 1."""
        if not self.defaults['fused']:
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, 'found_inf', None)
        groups: list[tuple[dict[str, Any], list[list[Tensor]]]] = []
        for group in self.param_groups:
            operands: list[list[Tensor]] = [[] for _ in range(6)]
            self._init_group(group, *operands)
            if operands[0]:
                groups.append((group, operands))
        counters = [counter for _, operands in groups for counter in operands[-1]]
        if not counters:
            return loss
        torch._foreach_add_(counters, 1)
        for group, operands in groups:
            torch._fused_adamw_(
                *operands,
                lr=group['lr'],
                beta1=group['betas'][0],
                beta2=group['betas'][1],
                weight_decay=group['weight_decay'],
                eps=group['eps'],
                amsgrad=group['amsgrad'],
                maximize=group['maximize'],
                grad_scale=getattr(self, 'grad_scale', None),
                found_inf=found_inf,
            )
        if found_inf is not None:
            torch._foreach_sub_(counters, [found_inf] * len(counters))
        return loss
