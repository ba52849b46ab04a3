"""Transforms of windows and their bias: the kernels against their torch twin."""

import pytest
import torch

from mtp.ops import dispatch
from mtp.ops.window_operands import window_operands
from tests.ops.test_window_operands import make

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def run(operands, dtypes, grid, size, setting, monkeypatch, learned=slice(None)):
    """Outputs and the gradients by all operands, in float64."""
    leaves = [t.to(DEVICE, dtype, copy=True).requires_grad_() for t, dtype in zip(operands, dtypes)]
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, 'SETTING', setting)
        outputs = window_operands(leaves[0], grid, size, *leaves[1:])
        loss = sum(
            (out * torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape).sin()).sum()
            for out in outputs[learned]
        )
        grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [t.detach().double() for t in (*outputs, *grads)]


@pytest.mark.parametrize(
    ('case', 'grid'),
    [
        (dict(batch=2, channels=80, heads=3, size=7), (10, 9)),
        (dict(batch=1, channels=16, heads=1, size=8), (8, 8)),
        (dict(batch=1, channels=8, heads=20, size=2), (3, 2)),
        (dict(batch=0, channels=8, heads=1, size=3), (3, 4)),
    ],
    ids=['padded-s7', 's8', 'many-heads', 'empty'],
)
@pytest.mark.parametrize('learned', [slice(None), slice(0, 1)], ids=['all', 'one-output-used'])
def test_equals_twin(case, grid, learned, monkeypatch):
    operands, size = make(grid=grid, **case), case['size']
    expected = run(operands, 8 * [torch.float64], grid, size, 'torch', monkeypatch, learned)
    results = run(operands, 8 * [torch.float32], grid, size, 'triton', monkeypatch, learned)
    for result, reference in zip(results, expected, strict=True):
        largest = float(reference.abs().max()) if reference.numel() else 0
        torch.testing.assert_close(result, reference, rtol=0, atol=1e-5 * largest)


def test_equals_twin_in_16_bits(monkeypatch):
    grid, size = (7, 4), 4
    operands = [t.bfloat16().double() for t in make(2, grid, 32, 2, size)]
    expected = run(operands, 8 * [torch.float64], grid, size, 'torch', monkeypatch)
    for dtypes in ([torch.bfloat16] + 7 * [torch.float32], 8 * [torch.bfloat16]):
        results = run(operands, dtypes, grid, size, 'triton', monkeypatch)
        for result, reference in zip(results, expected, strict=True):
            largest = float(reference.abs().max())
            torch.testing.assert_close(result, reference, rtol=0, atol=0.01 * largest)


def test_operator_is_registered_rightly():
    from mtp.ops.triton import window_operands as kernels

    x, *parameters = [t.float().to(DEVICE).requires_grad_() for t in make(1, (2, 3), 8, 1, 2)]
    torch.library.opcheck(
        kernels.window_operands,
        (x, 2, 3, 2, *parameters),
        test_utils=('test_schema', 'test_faketensor', 'test_autograd_registration'),
    )
