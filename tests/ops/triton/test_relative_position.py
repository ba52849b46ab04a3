"""Full attention with relative positions: the kernels against their torch twin."""

import json

import numpy as np
import pytest
import torch

from mtp.models.backbones import FullAttention
from mtp.ops import dispatch
from mtp.ops.relative_position import (
    relative_position_attention,
    relative_position_attention_torch,
)

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
AUTOCAST = torch.bfloat16, torch.float32, torch.float32


@pytest.fixture(autouse=True)
def _kernel(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


def operands(batch, grid, heads, channels):
    """Operands in float64 that bfloat16 holds exactly."""
    shapes = (
        (batch, grid[0] * grid[1], 3, heads, channels),
        (2 * grid[0] - 1, channels),
        (2 * grid[1] - 1, channels),
    )
    tensors = (torch.randn(shape, dtype=torch.float64, device=DEVICE) for shape in shapes)
    return [(tensor / factor).bfloat16().double() for tensor, factor in zip(tensors, (1, 2, 2))]


def run(function, leaves, dtypes):
    """Output and the gradient of each operand."""
    leaves = [leaf.to(dtype, copy=True).requires_grad_() for leaf, dtype in zip(leaves, dtypes)]
    out = function(*leaves)
    assert out.shape == leaves[0][:, :, 0].shape and out.dtype == dtypes[0]
    # neither constant nor contiguous
    cotangent = torch.linspace(-9, 9, out.numel(), device=DEVICE).sin().view(out.mT.shape).mT
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(out.dtype))]


def assert_close(results, expected, tolerance):
    for result, reference in zip(results, expected, strict=True):
        largest = max(1, float(reference.abs().max()))
        torch.testing.assert_close(
            result.double(), reference.double(), atol=tolerance * largest, rtol=0
        )


@pytest.mark.parametrize(
    'grid, channels, dtypes',
    [
        ((7, 9), 16, AUTOCAST),
        ((5, 20), 48, [torch.float16] * 3),
        ((3, 33), 16, [torch.bfloat16] * 3),
        ((2, 64), 32, [torch.float16] * 3),
        ((34, 1), 16, [torch.float16] * 3),
        ((1, 1), 128, [torch.float16] * 3),
    ],
    ids=['rows-of-16', 'rows-of-32', 'rows-of-48', 'rows-of-64', 'tall', 'token'],
)
def test_equals_twin(grid, channels, dtypes):
    leaves = operands(2 if max(grid) < 20 else 1, grid, 2, channels)
    expected = run(relative_position_attention_torch, leaves, [torch.float64] * 3)
    tolerance = 0.02 if dtypes[0] == torch.bfloat16 else 0.002
    assert_close(run(relative_position_attention, leaves, dtypes), expected, tolerance)


def test_large_logits_and_an_empty_batch():
    leaves = operands(1, (4, 5), 1, 16)
    leaves[0][:, :, 1] *= 128  # exponentials of the logits themselves are not finite
    expected = run(relative_position_attention_torch, leaves, [torch.float64] * 3)
    assert_close(run(relative_position_attention, leaves, [torch.float16] * 3), expected, 0.01)
    leaves[0] = leaves[0][:0]
    out, grad, *of_tables = run(relative_position_attention, leaves, AUTOCAST)
    assert out.shape[0] == grad.shape[0] == 0 and not any(table.any() for table in of_tables)


def test_many_queries_are_summed_in_spans(monkeypatch):
    """For the tables; and what a linear layer has not returned is copied."""
    from mtp.ops.triton import relative_position as kernels

    monkeypatch.setattr(kernels, 'SPAN', 64)
    leaves = operands(1, (8, 12), 1, 16)
    leaves[0] = leaves[0].transpose(1, 3).contiguous().transpose(1, 3)
    expected = run(relative_position_attention_torch, leaves, [torch.float64] * 3)
    assert_close(run(relative_position_attention, leaves, [torch.float16] * 3), expected, 0.002)


@pytest.mark.parametrize('case', ['full_14x14', 'full_9x6_nonsquare'])
def test_golden(shared, case):
    """As in training: in bfloat16 by autocast."""
    folder = shared / 'golden' / 'attention'
    index = json.loads((folder / 'index.json').read_text())
    info = next(entry for entry in index if entry['file'] == f'{case}.npz')
    data = {
        key: torch.from_numpy(value).to(DEVICE)
        for key, value in np.load(folder / f'{case}.npz').items()
    }
    grid = info['H'], info['W']
    module = FullAttention(info['dim'], info['num_heads'], grid, info['qkv_bias']).to(DEVICE)
    names = [key for key in data if key.startswith('param/')]
    module.load_state_dict({key.removeprefix('param/'): data[key] for key in names})
    x = data['x'].float().requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        out = module(x, *grid)
    out.backward(data['cotangent'].to(out.dtype))
    grads = {name: param.grad for name, param in module.named_parameters()}
    expected = [data['out'], data['grad_x'], *(data[f'grad/{name}'] for name in grads)]
    assert_close([out, x.grad, *grads.values()], expected, 0.03)


def test_compiles_and_is_registered_rightly():
    from mtp.ops.triton import relative_position as kernels

    tensors = operands(1, (3, 4), 1, 16)
    leaves = [leaf.to(dtype).requires_grad_() for leaf, dtype in zip(tensors, AUTOCAST)]

    def attend(*leaves):
        return relative_position_attention(*leaves).sin()

    compiled = torch.compile(attend, fullgraph=True, backend='aot_eager')
    assert_close(run(compiled, tensors, AUTOCAST), run(attend, tensors, AUTOCAST), 0)
    torch.library.opcheck(
        kernels.relative_position_attention,
        leaves,
        test_utils=('test_schema', 'test_faketensor', 'test_autograd_registration'),
    )


@pytest.mark.parametrize(
    'channels, dtype',
    [(16, torch.float32), (24, torch.bfloat16), (144, torch.bfloat16)],
)
def test_what_no_kernel_takes_runs_in_torch(channels, dtype):
    leaves = [leaf.to(dtype) for leaf in operands(1, (2, 3), 1, channels)]
    expected = relative_position_attention_torch(*leaves)
    assert torch.equal(relative_position_attention(*leaves), expected)
