"""How many kernels a piece of code launches on a GPU."""

from tools.benchmark.counting import launches

# Operators that are not one kernel, estimated from torch's sources, since no profile of a GPU was
# at hand: sorts go over the digits of their keys, gradients are one kernel each.
SEVERAL = {
    'aten::sort': 4,
    'aten::topk': 4,
    'aten::convolution_backward': 3,
    'aten::_scaled_dot_product_flash_attention_backward': 3,
    'aten::_scaled_dot_product_efficient_attention_backward': 2,
}


class LaunchCounter(launches.LaunchCounter):
    """Counts launches, on fake tensors too."""

    def total(self) -> int:
        """Return the launches so far."""
        # fake tensors ask themselves for their device, optimisers tell the profiler of their steps
        return sum(
            number * SEVERAL.get(name, 1)
            for (name, _), number in self.launches.items()
            if not name.startswith(('prim::', 'profiler::'))
        )


def of_calls(calls: dict[str, int]) -> int:
    """Return the launches of a lowered graph from the calls in its code.

    Args:
        calls: see :class:`tools.gate.lower.Lowered`; operators are named ``aten.sort.stable``.
    """
    return sum(
        number * SEVERAL.get('::'.join(name.split('.')[:2]), 1) for name, number in calls.items()
    )
