"""Count the kernels that code launches on a GPU."""

from tools.benchmark.counting import launches

# Kernels of operators with more than one, estimated from torch's sources because no GPU profile was
# at hand: sorts go over the digits of their keys, gradients are one kernel each.
SEVERAL = {
    'aten::sort': 4,
    'aten::topk': 4,
    'aten::convolution_backward': 3,
    'aten::_scaled_dot_product_flash_attention_backward': 3,
    'aten::_scaled_dot_product_efficient_attention_backward': 2,
}


class LaunchCounter(launches.LaunchCounter):
    """Counter of launches, on fake tensors too."""

    def total(self) -> int:
        """Return the launches so far."""
        # not launches: fake tensors query their device, optimisers mark steps for the profiler
        return sum(
            number * SEVERAL.get(name, 1)
            for (name, _), number in self.launches.items()
            if not name.startswith(('prim::', 'profiler::'))
        )


def of_calls(calls: dict[str, int]) -> int:
    """Return the launches of a lowered graph from the calls in its code.

    Args:
        calls: calls of :class:`tools.gate.lower.Lowered`; names are like ``aten.sort.stable``.
    """
    return sum(
        number * SEVERAL.get('::'.join(name.split('.')[:2]), 1) for name, number in calls.items()
    )
