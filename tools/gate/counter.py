"""Count the kernels that code launches on a GPU."""

from typing import Any

import torch
from torch import Tensor

from tools.benchmark.counting import launches

# Kernels of operators with more than one, estimated from torch's sources because no GPU profile was
# at hand: sorts go over the digits of their keys, gradients are one kernel each, padding fills and
# copies, a product with a broadcast addend copies that first.
SEVERAL = {
    'aten::sort': 4,
    'aten::topk': 4,
    'aten::baddbmm': 2,
    'aten::constant_pad_nd': 2,
    'aten::_scaled_dot_product_flash_attention_backward': 3,
    'aten::_scaled_dot_product_efficient_attention_backward': 2,
}
# A convolution has up to three gradients; lowered code doesn't say which of them are wanted.
SEVERAL_IN_CODE = SEVERAL | {'aten::convolution_backward': 3}


class LaunchCounter(launches.LaunchCounter):
    """Counter of launches, on fake tensors too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            _, x, weight, *_, wanted = args
            self.launches[func._schema.name, ''] += sum(wanted) - 1
            self.launches['copy of a weight', ''] += wanted[0] and _is_copied(x, weight)
        elif func is torch.ops.aten.convolution.default:
            x, weight, bias, *_ = args
            self.launches[func._schema.name, ''] += bias is not None  # cuDNN does not add it
            self.launches['copy of a weight', ''] += _is_copied(x, weight)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def total(self) -> int:
        """Return the launches so far."""
        # not launches: fake tensors query their device, optimisers mark steps for the profiler
        return sum(
            number * SEVERAL.get(name, 1)
            for (name, _), number in self.launches.items()
            if not name.startswith(('prim::', 'profiler::'))
        )


def _is_copied(x: Tensor, weight: Tensor) -> bool:
    """Return whether a convolution lays out its weight as its maps are, channels last."""
    last = torch.channels_last
    return (
        weight.dim() == 4
        and torch._prims_common.suggest_memory_format(x) == last
        and not weight.is_contiguous(memory_format=last)
    )


def of_calls(calls: dict[str, int]) -> int:
    """Return the launches of a lowered graph from the calls in its code.

    Args:
        calls: calls of :class:`tools.gate.lower.Lowered`; names are like ``aten.sort.stable``.
    """
    return sum(
        number * SEVERAL_IN_CODE.get('::'.join(name.split('.')[:2]), 1)
        for name, number in calls.items()
    )
