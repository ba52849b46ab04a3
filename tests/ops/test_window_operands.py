"""Transforms of windows and their bias against their definition, written as loops."""

import pytest
import torch
from torch import Tensor

from mtp.ops.window_operands import window_operands


def make(batch: int, grid: tuple[int, int], channels: int, heads: int, size: int) -> list[Tensor]:
    """Return tokens, the three affine maps, and the table, in float64."""
    maps = [(heads * n, *rest) for n in (2, 2, 1) for rest in ((channels, 1, 1), ())]
    shapes = [(batch, grid[0] * grid[1], channels), *maps, ((2 * size - 1) ** 2, heads)]
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def test_equals_definition() -> None:
    size, heads, grid = 3, 2, (5, 7)  # padded by 0 and 1 rows, 1 and 1 columns
    x, *maps, table = operands = make(2, grid, 4, heads, size)
    offsets, scales, angles, bias = window_operands(operands[0], grid, size, *operands[1:])
    assert offsets.shape == scales.shape == (2, heads, 2, 2, 3) and angles.shape == (2, heads, 2, 3)

    x = x.unflatten(1, grid)
    for row, column in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        places = [
            (y, x_)
            for y in range(row * size, (row + 1) * size)
            for x_ in range(column * size - 1, (column + 1) * size - 1)
            if 0 <= y < 5 and 0 <= x_ < 7
        ]
        mean = sum(x[:, y, x_] for y, x_ in places) / size**2
        mean = torch.where(mean > 0, mean, 0.01 * mean)
        for result, weight, shift in zip((offsets, scales, angles), maps[::2], maps[1::2]):
            expected = mean @ weight[:, :, 0, 0].T + shift
            torch.testing.assert_close(result[..., row, column].flatten(1), expected)
    for j, i, m, n in torch.cartesian_prod(*4 * [torch.arange(size)]).tolist():
        expected = table[(j - m + 2) * 5 + i - n + 2]
        assert torch.equal(bias[:, j * size + i, m * size + n], expected)


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        (0, lambda t: t[:, :3], r'x of shape \(1, 3, 4\): it takes .* 2 x 2 tokens'),
        (1, lambda t: t[:3], r'offset_weight of shape \(3, 4, 1, 1\): it takes \(4, 4, 1, 1\)'),
        (4, lambda t: t[None], r'scale_bias of shape \(1, 4\)'),
        (7, lambda t: t[:8], r'bias_table of shape \(8, 2\): it takes \(9, 2\)'),
        (7, lambda t: t.to('meta'), r'bias_table is on meta, x on cpu'),
    ],
)
def test_operands_that_do_not_fit_are_refused(name: int, change, message: str) -> None:
    operands = make(1, (2, 2), 4, 2, 2)
    operands[name] = change(operands[name])
    with pytest.raises(ValueError, match=message):
        window_operands(operands[0], (2, 2), 2, *operands[1:])
