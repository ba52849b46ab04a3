"""Rotated varied-size window attention against its definition, written as loops."""

import math

import pytest
import torch

from mtp.ops.rotated_window import rotated_window_attention, rotated_window_grid, window_padding


def _bilinear(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Value of ``image`` (H, W, d) at pixel (x, y), zero outside."""
    value = torch.zeros(image.shape[-1], dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                value = value + weight * image[row, column]
    return value


def _attention_by_definition(qkv, offsets, scales, angles, rel_pos_h, rel_pos_w, bias):
    batch, height, width, _, heads, channels = qkv.shape
    size = (len(rel_pos_h) + 1) // 2
    n_h, n_w = angles.shape[-2:]
    top, left = (n_h * size - height) // 2, (n_w * size - width) // 2
    padded = torch.zeros(3, batch, n_h * size, n_w * size, heads, channels, dtype=qkv.dtype)
    padded[:, :, top : top + height, left : left + width] = qkv.movedim(3, 0)
    q, k, v = padded
    half_h, half_w = (n_h * size - 1) / 2, (n_w * size - 1) / 2  # pixels per normalised unit
    out = torch.zeros_like(q)
    places = [(j, i) for j in range(size) for i in range(size)]
    middle = (size - 1) / 2
    for b, a, wh, ww in torch.cartesian_prod(*map(torch.arange, (batch, heads, n_h, n_w))).tolist():
        ox, oy = offsets[b, a, :, wh, ww].tolist()
        ex, ey = scales[b, a, :, wh, ww].tolist()
        t = angles[b, a, wh, ww].item()
        keys, values = [], []
        for j, i in places:
            ux, uy = (i - middle) / half_w * (1 + ex), (j - middle) / half_h * (1 + ey)
            px = (ww * size + middle) / half_w - 1 + ux * math.cos(t) - uy * math.sin(t)
            py = (wh * size + middle) / half_h - 1 + ux * math.sin(t) + uy * math.cos(t)
            px += ox / max(1, height // size)
            py += oy / max(1, width // size)
            x, y = (px + 1) * half_w, (py + 1) * half_h
            keys.append(_bilinear(k[b, :, :, a], x, y))
            values.append(_bilinear(v[b, :, :, a], x, y))
        for n, (j, i) in enumerate(places):
            query = q[b, wh * size + j, ww * size + i, a]
            logits = torch.stack(
                [
                    query @ keys[m] / math.sqrt(channels)
                    + query @ rel_pos_h[j - kj + size - 1]
                    + query @ rel_pos_w[i - ki + size - 1]
                    + bias[a, n, m]
                    for m, (kj, ki) in enumerate(places)
                ]
            )
            out[b, wh * size + j, ww * size + i, a] = logits.softmax(0) @ torch.stack(values)
    return out[:, top : top + height, left : left + width]


@pytest.mark.parametrize('grid', [(6, 6), (5, 7), (2, 4)], ids=['whole', 'padded', 'small'])
def test_attention_equals_definition(grid: tuple[int, int]) -> None:
    size, heads, channels = 3, 2, 4
    n_h, n_w = (math.ceil(side / size) for side in grid)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    args = (
        rand(2, *grid, 3, heads, channels),
        0.3 * rand(2, heads, 2, n_h, n_w),
        0.5 * rand(2, heads, 2, n_h, n_w),
        rand(2, heads, n_h, n_w),
        rand(2 * size - 1, channels),
        rand(2 * size - 1, channels),
        rand(heads, size**2, size**2),
    )
    torch.testing.assert_close(
        rotated_window_attention(*args), _attention_by_definition(*args), rtol=1e-9, atol=1e-9
    )


def test_half_precision_samples_at_float32_positions() -> None:
    """bfloat16 has no room for coordinates: the grid stays float32, the result does not."""
    size, heads, grid = 7, 2, (14, 28)
    shape = (1, heads, 2, 4)
    offsets, scales, angles = (
        torch.zeros(1, heads, 2, 2, 4),
        torch.zeros(1, heads, 2, 2, 4),
        torch.zeros(shape),
    )
    positions = rotated_window_grid(
        offsets.bfloat16(), scales.bfloat16(), angles.bfloat16(), grid, size
    )
    assert positions.dtype == torch.float32
    expected = torch.linspace(-1, 1, 28).expand(1, heads, 14, 28)
    torch.testing.assert_close(positions[..., 0], expected, rtol=0, atol=1e-6)

    qkv = torch.randn(1, *grid, 3, heads, 8)
    tables = torch.zeros(13, 8), torch.zeros(13, 8), torch.zeros(heads, 49, 49)
    full = rotated_window_attention(qkv, offsets, scales, angles, *tables)
    half = rotated_window_attention(
        *(t.bfloat16() for t in (qkv, offsets, scales, angles, *tables))
    )
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0, atol=0.03)


def test_window_padding_puts_the_odd_row_last() -> None:
    assert window_padding((10, 13), 7) == (0, 1, 2, 2)
    assert window_padding((14, 4), 7) == (1, 2, 0, 0)


def _operands(batch: int = 2) -> dict[str, torch.Tensor]:
    shapes = {
        'qkv': (batch, 3, 4, 3, 2, 4),
        'offsets': (batch, 2, 2, 2, 2),
        'scales': (batch, 2, 2, 2, 2),
        'angles': (batch, 2, 2, 2),
        'rel_pos_h': (3, 4),
        'rel_pos_w': (3, 4),
        'bias': (2, 4, 4),
    }
    return {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}


def test_gradients() -> None:
    args = [tensor.requires_grad_() for tensor in _operands(1).values()]
    assert torch.autograd.gradcheck(rotated_window_attention, args, fast_mode=True)


def test_no_image_gives_no_image() -> None:
    assert rotated_window_attention(**_operands(0)).shape == (0, 3, 4, 2, 4)


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('qkv', lambda t: t.flatten(4), r'qkv of shape \(2, 3, 4, 3, 8\): it takes \(B, H, W, 3'),
        ('qkv', lambda t: t[:, :, :, :2], r'qkv of shape \(2, 3, 4, 2, 2, 4\): it takes'),
        ('offsets', lambda t: t[..., :1], r'it takes \(2, 2, 2, 2, 2\)'),
        ('scales', lambda t: t[:, :1], r'scales of shape'),
        ('angles', lambda t: t[:1], r'angles of shape'),
        ('rel_pos_h', lambda t: t[:2], r'it takes \(2 \* s - 1, d\)'),
        ('rel_pos_w', lambda t: t[:, :2], r'it takes \(3, 4\)'),
        ('bias', lambda t: t[:1], r'bias of shape \(1, 4, 4\): it takes \(2, 4, 4\)'),
        ('bias', lambda t: t.to('meta'), r'bias is on meta, qkv on cpu'),
    ],
)
def test_operands_that_do_not_fit_are_refused(name: str, change, message: str) -> None:
    operands = _operands()
    operands[name] = change(operands[name])
    with pytest.raises(ValueError, match=message):
        rotated_window_attention(**operands)
