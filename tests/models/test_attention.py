"""Attention modules: reference tensors, and full attention against its definition."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp.models.backbones import FullAttention, RotatedWindowAttention

CASES = [
    'rvsa_14x14',
    'rvsa_7x7',
    'rvsa_10x13_padded',
    'rvsa_28x21',
    'rvsa_ws4_9x12_nobias',
    'full_14x14',
    'full_9x6_nonsquare',
    'full_norelpos_8x11',
]


def _assert_close(actual: torch.Tensor, expected: np.ndarray, tolerance: float, name: str) -> None:
    error = np.abs(actual.detach().numpy() - expected).max() / np.abs(expected).max()
    assert error < tolerance, f'{name}: {error:.1e} of the largest value'


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=['float32', 'float64'])
@pytest.mark.parametrize('case', CASES)
def test_equals_released_models(shared: Path, case: str, dtype: torch.dtype) -> None:
    folder = shared / 'golden' / 'attention'
    info = next(
        entry
        for entry in json.loads((folder / 'index.json').read_text())
        if entry['file'] == f'{case}.npz'
    )
    data = np.load(folder / f'{case}.npz')
    grid = info['H'], info['W']
    if info['kind'] == 'rvsa':
        module = RotatedWindowAttention(
            info['dim'], info['num_heads'], info['window_size'], info['qkv_bias']
        )
    else:
        module = FullAttention(
            info['dim'],
            info['num_heads'],
            grid,
            info['qkv_bias'],
            relative_position=info['kind'] == 'full',
        )
    module.load_state_dict(
        {
            key.removeprefix('param/'): torch.from_numpy(data[key])
            for key in data
            if key.startswith('param/')
        }
    )
    module.to(dtype)

    suffix, tolerance, grad_tolerance = (
        ('', 3e-5, 1e-4) if dtype == torch.float32 else ('_f64', 1e-10, 1e-10)
    )
    x = torch.from_numpy(data['x']).to(dtype).requires_grad_()
    out = module(x, *grid)
    out.backward(torch.from_numpy(data['cotangent']).to(dtype))
    _assert_close(out, data[f'out{suffix}'], tolerance, 'out')
    if dtype == torch.float32 or info['has_f64_grads']:
        _assert_close(x.grad, data[f'grad_x{suffix}'], grad_tolerance, 'grad_x')
        for name, param in module.named_parameters():
            _assert_close(param.grad, data[f'grad{suffix}/{name}'], grad_tolerance, name)


def _full_attention(dim: int, heads: int, grid: tuple[int, int]) -> FullAttention:
    module = FullAttention(dim, heads, grid)
    for table in (module.full_attn_rel_pos_h, module.full_attn_rel_pos_w):
        torch.nn.init.normal_(table)
    return module


def test_full_attention_equals_definition() -> None:
    (H, W), heads = (4, 3), 2
    module = _full_attention(8, heads, (H, W))
    x = torch.randn(1, H * W, 8)
    q, k, v = module.qkv(x).view(H * W, 3, heads, 4).unbind(1)
    q = q / 2  # sqrt of 4 channels
    out = torch.zeros(H * W, heads, 4)
    for a in range(heads):
        for n in range(H * W):
            logits = torch.stack(
                [
                    q[n, a]
                    @ (
                        k[m, a]
                        + module.full_attn_rel_pos_h[n // W - m // W + H - 1]
                        + module.full_attn_rel_pos_w[n % W - m % W + W - 1]
                    )
                    for m in range(H * W)
                ]
            )
            out[n, a] = logits.softmax(0) @ v[:, a]
    torch.testing.assert_close(module(x, H, W), module.proj(out.view(1, H * W, 8)))


def test_tables_are_resized_at_run_time() -> None:
    """On a grid of another size, rows and columns are treated alike: transposing commutes."""
    module, swapped = _full_attention(8, 2, (5, 5)), _full_attention(8, 2, (5, 5))
    state = module.state_dict()
    state['full_attn_rel_pos_h'], state['full_attn_rel_pos_w'] = (
        state['full_attn_rel_pos_w'],
        state['full_attn_rel_pos_h'],
    )
    swapped.load_state_dict(state)
    x = torch.randn(2, 7, 4, 8)
    out = module(x.flatten(1, 2), 7, 4).view(2, 7, 4, 8)
    transposed = swapped(x.transpose(1, 2).flatten(1, 2), 4, 7).view(2, 4, 7, 8)
    torch.testing.assert_close(out, transposed.transpose(1, 2))


@pytest.mark.parametrize(
    'make', [lambda: FullAttention(10, 3, (4, 4)), lambda: RotatedWindowAttention(10, 3)]
)
def test_heads_must_divide_channels(make) -> None:
    with pytest.raises(ValueError, match='dim=10 must be a multiple of num_heads=3'):
        make()


def test_window_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match='window_size=1'):
        RotatedWindowAttention(8, 2, window_size=1)
