"""Full attention with decomposed relative positions."""

import pytest
import torch

from mtp.ops.relative_position import relative_position_attention, resize_relative_table


def operands(grid, channels, dtype=torch.float64):
    return [
        torch.randn(*shape, dtype=dtype).requires_grad_()
        for shape in (
            (2, grid[0] * grid[1], 3, 3, channels),
            (2 * grid[0] - 1, channels),
            (2 * grid[1] - 1, channels),
        )
    ]


def with_bias(qkv, rel_pos_h, rel_pos_w):
    """The same with an N x N bias."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    height, width = (len(rel_pos_h) + 1) // 2, (len(rel_pos_w) + 1) // 2
    q = q * q.shape[-1] ** -0.5
    place = torch.arange(q.shape[2])
    row, column = place // width, place % width
    table = (
        rel_pos_h[row[:, None] - row + height - 1] + rel_pos_w[column[:, None] - column + width - 1]
    )
    logits = q @ k.transpose(2, 3) + torch.einsum('bhnd,nmd->bhnm', q, table)
    return (logits.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize(
    'grid, channels',
    [((3, 5), 8), ((4, 3), 6), ((1, 1), 4), ((1, 6), 5)],
    ids=['whole', 'padded', 'token', 'row'],
)
def test_equals_the_materialised_bias(grid, channels):
    tensors = operands(grid, channels)
    out, expected = relative_position_attention(*tensors), with_bias(*tensors)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)
    cotangent = torch.randn_like(out)
    gradients = [torch.autograd.grad(form, tensors, cotangent) for form in (out, expected)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize('grid, channels', [((12, 12), 8), ((12, 12), 11)])
def test_fused_kernels_take_it_and_nothing_of_n_by_n_is_saved(monkeypatch, grid, channels):
    seen, saved = [], []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, **kwargs):
        seen.append((q.shape[-1], k.shape[-1], v.shape[-1]))
        return attention(q, k, v, **kwargs)

    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', watched)
    tensors = operands(grid, channels, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.shape) or t, lambda t: t
    ):
        relative_position_attention(*tensors).sum().backward()
    assert seen == [((channels + 24 + 7) // 8 * 8,) * 3]
    length = grid[0] * grid[1]
    assert saved and not any(list(shape).count(length) > 1 for shape in saved)
    # 6 heads, with channels for positions at most: far from 6 * N * N
    assert max(shape.numel() for shape in saved) <= 6 * length * seen[0][0] < 6 * length**2 / 3


def test_tables_resize():
    table = torch.randn(7, 4)
    assert resize_relative_table(table, 7) is table
    assert resize_relative_table(table.bfloat16(), 13).shape == (13, 4)
    torch.testing.assert_close(resize_relative_table(torch.ones(7, 4), 13), torch.ones(13, 4))


def test_wrong_input():
    qkv, rel_pos_h, rel_pos_w = operands((3, 4), 8)
    for wrong, message in (
        ((qkv[0], rel_pos_h, rel_pos_w), 'it takes'),
        ((qkv[:, :, :2], rel_pos_h, rel_pos_w), 'it takes'),
        ((qkv, rel_pos_h[1:], rel_pos_w), 'rel_pos_h must have shape'),
        ((qkv, rel_pos_h, rel_pos_w[:, :4]), 'rel_pos_w must have shape'),
        ((qkv, rel_pos_w, rel_pos_w), '4 x 4 tokens, but qkv has 12'),
        ((qkv, rel_pos_h.to('meta'), rel_pos_w), 'rel_pos_h is on meta'),
    ):
        with pytest.raises(ValueError, match=message):
            relative_position_attention(*wrong)
