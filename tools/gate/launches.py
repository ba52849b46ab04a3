"""How many kernels a call in a lowered graph launches on a GPU."""

# Library calls that are not one kernel, counted in the profile of a GPU or in torch's sources:
# what a sort launches depends on its length, and this is the number for rows in radix sort.
SEVERAL = {
    'aten.sort.default': 4, 'aten.sort.stable': 4, 'aten.topk.default': 4,
    'aten.convolution_backward.default': 3,  # input, weight and bias
    'aten._scaled_dot_product_flash_attention_backward.default': 3,
    'aten._scaled_dot_product_efficient_attention_backward.default': 2}


def launches_of(calls: dict[str, int]) -> int:
    """Return the launches of a graph from :attr:`tools.gate.lower.Lowered.calls`."""
    return sum(number * SEVERAL.get(name, 1) for name, number in calls.items())
