"""Pools of several sizes: the kernels against torch's operators in float64."""

import pytest
import torch

from mtp.ops import adaptive_pools, dispatch

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
SIDES = [1, 3]


def run(monkeypatch, setting, x):
    """Pools and the gradient."""
    monkeypatch.setattr(dispatch, 'SETTING', setting)
    x = x.detach().requires_grad_()
    pools = adaptive_pools(x, SIDES)
    cotangents = [torch.linspace(-7, 7, p.numel(), dtype=torch.float64).sin() for p in pools]
    cotangents = [c.view(p.shape).to(p) for c, p in zip(cotangents, pools)]
    return [t.detach().cpu() for t in (*pools, *torch.autograd.grad(pools, x, cotangents))]


@pytest.mark.parametrize(
    ('size', 'dtype', 'layout'),
    [
        ((5, 4), torch.float32, torch.contiguous_format),
        ((3, 8), torch.bfloat16, torch.channels_last),
    ],
)
def test_equals_torch(size, dtype, layout, monkeypatch):
    x = torch.randn(2, 66, *size, generator=torch.Generator().manual_seed(0))
    x = x.to(DEVICE, dtype).contiguous(memory_format=layout)
    found, expected = run(monkeypatch, 'triton', x), run(monkeypatch, 'torch', x.double())
    assert {t.dtype for t in found} == {dtype}
    for result, wanted in zip(found, expected, strict=True):
        tolerance = torch.finfo(dtype).eps * float(wanted.abs().max())
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=tolerance)


def test_a_map_that_is_smaller_than_a_pool(monkeypatch):
    x = torch.randn(1, 2, 2, 7, device=DEVICE)
    for found, expected in zip(run(monkeypatch, 'triton', x), run(monkeypatch, 'torch', x)):
        torch.testing.assert_close(found, expected)
