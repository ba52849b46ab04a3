"""Rotated window attention: the kernels against their torch twin and recorded modules."""

import json

import numpy as np
import pytest
import torch

from mtp.models.backbones import RotatedWindowAttention
from mtp.ops import dispatch
from mtp.ops.rotated_window import rotated_window_attention

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture(autouse=True)
def _kernel(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


def operands(batch, height, width, heads, channels, size, offset=0.3, scale=0.3, angle=1.0):
    """Leaves in float64: packed q, k, v as a linear layer returns them, and the rest."""
    n_h, n_w = -(-height // size), -(-width // size)
    tables = 2 * size - 1, channels
    shapes = (
        (batch, height * width, 3 * heads * channels),
        (batch, heads, 2, n_h, n_w),
        (batch, heads, 2, n_h, n_w),
        (batch, heads, n_h, n_w),
        tables,
        tables,
        (heads, size**2, size**2),
    )
    factors = 1, offset, scale, angle, 0.5, 0.5, 1
    return [
        factor * torch.randn(shape, dtype=torch.float64, device=DEVICE)
        for factor, shape in zip(factors, shapes)
    ]


def run(leaves, grid, heads, dtypes, function=rotated_window_attention):
    """Output and the gradient of each leaf, in float64."""
    leaves = [leaf.to(dtype, copy=True).requires_grad_() for leaf, dtype in zip(leaves, dtypes)]
    qkv = leaves[0].unflatten(1, grid).unflatten(3, (3, heads, -1))
    out = function(qkv, *leaves[1:])
    assert out.shape == qkv[:, :, :, 0].shape and out.dtype == qkv.dtype
    cotangent = torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape).sin()
    out.backward(cotangent.to(out.dtype))
    return [tensor.double() for tensor in (out.detach(), *(leaf.grad for leaf in leaves))]


def assert_equal_to_twin(leaves, grid, heads, dtypes, tolerance):
    expected = run(leaves, grid, heads, [torch.float64] * 7, twin)
    for result, reference in zip(run(leaves, grid, heads, dtypes), expected):
        largest = reference.abs().max() if reference.numel() else 0
        torch.testing.assert_close(result, reference, atol=tolerance * float(largest), rtol=0)


def twin(*args):
    setting, dispatch.SETTING = dispatch.SETTING, 'torch'
    try:
        return rotated_window_attention(*args)
    finally:
        dispatch.SETTING = setting


@pytest.mark.parametrize(
    'case',
    [
        {'grid': (7, 7), 'channels': 8},
        {'grid': (3, 6), 'channels': 20, 'batch': 2, 'size': 4},
        {'grid': (9, 4), 'channels': 32, 'heads': 2},
        {'grid': (8, 8), 'channels': 8, 'size': 8},
        {'grid': (3, 2), 'channels': 40, 'size': 2, 'heads': 1, 'offset': 0.1},
        {'grid': (14, 9), 'channels': 8, 'scale': 3.0, 'angle': 100.0},
        {'grid': (7, 7), 'channels': 8, 'offset': 1e6, 'scale': 1e6},
        {'grid': (7, 7), 'channels': 8, 'offset': 0, 'scale': 0, 'angle': 0, 'batch': 0},
    ],
    ids=[
        'one-window',
        'padded-s4-d20',
        'padded-heads',
        's8',
        's2-d40',
        'large-windows',
        'far-outside',
        'empty',
    ],
)
def test_equals_twin(case):
    case = {'batch': 1, 'heads': 1, 'size': 7, **case}
    grid, heads = case.pop('grid'), case['heads']
    assert_equal_to_twin(
        operands(height=grid[0], width=grid[1], **case),
        grid,
        heads,
        [torch.float32] * 7,
        1e-4 if case.get('scale') == 3.0 else 1e-5,
    )


@pytest.mark.parametrize(
    'dtypes',
    [
        [torch.bfloat16] + 6 * [torch.float32],
        [torch.bfloat16] * 7,
        [torch.float16] * 7,
    ],
    ids=['bfloat16-as-under-autocast', 'bfloat16', 'float16'],
)
def test_equals_twin_in_16_bits(dtypes):
    """Operands that both dtypes hold exactly; what differs is the arithmetic's rounding."""
    leaves = [leaf.bfloat16().double() for leaf in operands(1, 7, 9, 1, 32, 7)]
    assert_equal_to_twin(leaves, (7, 9), 1, dtypes, 0.04 if dtypes[0] == torch.bfloat16 else 0.006)


def test_windows_outside_see_nothing():
    leaves = operands(1, 4, 4, 1, 8, 4)
    leaves[1] = leaves[1] * 0 + 50
    out, grad_qkv, *grads, _, _, _ = run(leaves, (4, 4), 1, [torch.float32] * 7)
    assert not out.any() and not grad_qkv.any() and not any(grad.any() for grad in grads)


def test_positions_that_are_no_numbers_stay_in_memory():
    leaves = operands(1, 4, 4, 1, 8, 4)
    leaves[3][:] = float('nan')
    out, grad_qkv, *_ = run(leaves, (4, 4), 1, [torch.float32] * 7)
    assert out.isfinite().all() and grad_qkv.isfinite().all()


def test_strides_of_every_kind():
    """Parts that are not side by side, channels that are not, a gradient that is a broadcast."""
    leaves = [leaf.float() for leaf in operands(1, 4, 4, 1, 8, 4)]
    qkv = leaves[0].unflatten(1, (4, 4)).unflatten(3, (3, 1, 8))
    for order in ((3, 0, 1, 2, 4, 5), (0, 1, 5, 2, 3, 4)):
        back = [order.index(axis) for axis in range(6)]
        moved = qkv.permute(order).contiguous().permute(back).requires_grad_()
        results = [
            (out, *torch.autograd.grad(out.sum(), moved))
            for out in (
                function(moved, *leaves[1:]) for function in (rotated_window_attention, twin)
            )
        ]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'case',
    [
        'rvsa_7x7',
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in ('rvsa_10x13_padded', 'rvsa_ws4_9x12_nobias')
        ),
    ],
)
def test_golden(shared, case):
    folder = shared / 'golden' / 'attention'
    info = next(
        entry
        for entry in json.loads((folder / 'index.json').read_text())
        if entry['file'] == f'{case}.npz'
    )
    data = {
        key: torch.from_numpy(value).to(DEVICE)
        for key, value in np.load(folder / f'{case}.npz').items()
    }
    module = RotatedWindowAttention(
        info['dim'], info['num_heads'], info['window_size'], info['qkv_bias']
    ).to(DEVICE)
    module.load_state_dict(
        {
            key.removeprefix('param/'): value
            for key, value in data.items()
            if key.startswith('param/')
        }
    )
    x = data['x'].float().requires_grad_()
    out = module(x, info['H'], info['W'])
    out.backward(data['cotangent'].float())
    results = {
        'out': out,
        'grad_x': x.grad,
        **{f'grad/{name}': param.grad for name, param in module.named_parameters()},
    }
    for name, result in results.items():
        largest = float(data[name].abs().max())
        torch.testing.assert_close(result, data[name], atol=1e-4 * largest, rtol=0, msg=name)


def test_compiles_without_a_graph_break():
    leaves = [leaf.float().requires_grad_() for leaf in operands(1, 4, 4, 1, 8, 4)]

    def attend(x, *rest):
        qkv = x.unflatten(1, (4, 4)).unflatten(3, (3, 1, 8))
        return rotated_window_attention(qkv, *rest).sin()

    compiled = torch.compile(attend, fullgraph=True, backend='aot_eager')
    results = [
        (out, *torch.autograd.grad(out.sum(), leaves))
        for out in (compiled(*leaves), attend(*leaves))
    ]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_operator_is_registered_rightly():
    from mtp.ops.triton import rotated_window

    leaves = [leaf.float() for leaf in operands(1, 4, 4, 1, 8, 4)]
    qkv = leaves[0].unflatten(1, (4, 4)).unflatten(3, (3, 1, 8))
    args = (*(leaf.requires_grad_() for leaf in (qkv, *leaves[1:])),)
    torch.library.opcheck(
        rotated_window.rotated_window_attention,
        args,
        test_utils=('test_schema', 'test_faketensor', 'test_autograd_registration'),
    )


def test_wide_heads_and_large_windows_run_in_torch():
    for channels, size in ((72, 2), (4, 9)):
        leaves = [leaf.float() for leaf in operands(1, size, size, 1, channels, size)]
        args = leaves[0].unflatten(1, (size, size)).unflatten(3, (3, 1, channels)), *leaves[1:]
        assert torch.equal(rotated_window_attention(*args), twin(*args))
