"""Deterministic variants of torch operators that accumulate their gradient on a GPU in any order.

Under ``torch.use_deterministic_algorithms`` torch refuses to differentiate these operators, except
for cuDNN's ``grid_sample``, which ignores the setting. On a CPU, torch's own operators run.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def in_order(tensor: Tensor) -> bool:
    """Return whether gradients on the tensor's device must be bitwise reproducible."""
    return torch.are_deterministic_algorithms_enabled() and tensor.device.type != 'cpu'


def grid_sample(image: Tensor, grid: Tensor, align_corners: bool) -> Tensor:
    """Sample bilinearly, with zeros outside the image, like ``F.grid_sample``.

    Args:
        image: images ``(N, C, H, W)``.
        grid: sampling positions ``(N, H', W', 2)``, x and y in -1..1.
        align_corners: whether -1 and 1 are the centres of the outer pixels instead of their edges.

    Returns:
        Tensor: samples ``(N, C, H', W')``.
    """
    if in_order(image):
        return _grid_sample(image, grid, align_corners)
    return F.grid_sample(image, grid, align_corners=align_corners)


def _grid_sample(image: Tensor, grid: Tensor, align_corners: bool) -> Tensor:
    """Sample by indexing rows of a table: the gradient of indexing sorts before it adds."""
    images, _, height, width = image.shape
    x, y = (
        ((place + 1) * (side - 1) if align_corners else (place + 1) * side - 1) / 2
        for place, side in zip(grid.unbind(-1), (width, height))
    )
    # compared as floats: positions may exceed the range of integers, or be NaN
    near = (x > -1) & (x < width) & (y > -1) & (y < height)
    x, y = x.where(near, -1), y.where(near, -1)
    left, top = x.detach().floor(), y.detach().floor()
    table = image.permute(0, 2, 3, 1).flatten(0, 2)
    first = torch.arange(images, device=image.device)[:, None, None] * (height * width)
    result = image.new_zeros(())
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
            column, row = (place.where(inside, 0).long() for place in (column, row))
            result = result + weight[..., None] * table[first + row * width + column]
    return result.permute(0, 3, 1, 2)


def bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(N, C, H, W)`` to ``size`` bicubically, like ``F.interpolate`` without aligned
    corners."""

    def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(image, size=size, mode='bicubic', align_corners=False)

    return _by_matrices(resize, image, size) if in_order(image) else resize(image, size)


def adaptive_avg_pool2d(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool ``(N, C, H, W)`` to ``size``, like ``F.adaptive_avg_pool2d``."""
    if in_order(image):
        return _by_matrices(F.adaptive_avg_pool2d, image, size)
    return F.adaptive_avg_pool2d(image, size)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """torch's module with a deterministic gradient."""

    def forward(self, input: Tensor) -> Tensor:
        sizes = nn.modules.utils._pair(self.output_size)
        height, width = (new or old for new, old in zip(sizes, input.shape[-2:]))
        return adaptive_avg_pool2d(input, (height, width))


def replace_pools(model: nn.Module) -> None:
    """Replace the adaptive pools of a model, which have no parameters, by the module above."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.AdaptiveAvgPool2d:
                setattr(parent, name, AdaptiveAvgPool2d(child.output_size))


def _by_matrices(
    function: Callable[[Tensor, tuple[int, int]], Tensor], image: Tensor, size: tuple[int, int]
) -> Tensor:
    """Apply a separable linear map of rows and columns as two matrix products.

    They are computed in float64, which neither autocast nor TF32 rounds.
    """
    rows, columns = (
        function(torch.eye(old, device=image.device, dtype=torch.float64)[None, None], (new, old))
        for old, new in zip(image.shape[-2:], size)
    )
    return (rows[0, 0] @ image.double() @ columns[0, 0].T).to(image.dtype)
