"""Bias and ReLU of maps: the kernels against torch's operators in float64."""

import pytest
import torch

from mtp.ops import bias_relu, dispatch
from tests.ops.test_bias_relu import make

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# heights and widths of the maps, and channels
JOINED = [(13, 11), (1, 1), (5, 7)], 70  # chunks, the last one not full; tiles that are not full
SINGLE = [(3, 4)], 64


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


def run(maps, bias):
    """Result and gradients."""
    operands = [x.detach().requires_grad_() for x in (*maps, bias)]
    out = bias_relu(operands[:-1], operands[-1])
    cotangent = torch.arange(out.numel(), device=DEVICE) % 15 - 7  # exact in 16 bits
    grads = torch.autograd.grad(out, operands, cotangent.view_as(out).to(out.dtype))
    return [t.detach().cpu() for t in (out, *grads)]


def expected(monkeypatch, maps, bias):
    monkeypatch.setattr(dispatch, 'SETTING', 'torch')
    return run([x.double() for x in maps], bias.double())


def assert_near(found, wanted, tolerance, of_bias):
    """Compare numbers, each rounded once, and the gradient of the bias, which is a sum."""
    for result, reference in zip(found[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(result.double(), reference, rtol=tolerance, atol=1e-6)
    largest = float(wanted[-1].abs().max())
    torch.testing.assert_close(found[-1].double(), wanted[-1], rtol=0, atol=of_bias * largest)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(('shapes', 'channels'), [JOINED, SINGLE])
def test_equals_torch(shapes, channels, layout, monkeypatch):
    operands = make(shapes, channels, device=DEVICE, layout=layout)
    found = run(*operands)
    assert_near(found, expected(monkeypatch, *operands), 1e-6, 1e-6)
    assert all(grad.is_contiguous(memory_format=torch.channels_last) for grad in found[1:-1])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bits_are_rounded_once(dtype, monkeypatch):
    operands = make(*JOINED, dtype, DEVICE)
    found = run(*operands)
    assert {t.dtype for t in found} == {dtype}
    eps = torch.finfo(dtype).eps
    assert_near(found, expected(monkeypatch, *operands), eps, eps)


def test_what_is_not_a_number_stays_so():
    x = torch.tensor([float('nan'), float('inf'), -float('inf')], device=DEVICE).view(1, 3, 1, 1)
    out, grad, _ = run([x], x.new_zeros(3))
    out, grad = out.flatten(), grad.flatten()
    assert out.isnan().tolist() == [True, False, False] and out[1:].tolist() == [float('inf'), 0]
    assert grad.tolist() == [-7, -6, 0]


def test_no_images_have_no_gradient():
    (x,), bias = make([(3, 4)], device=DEVICE)
    out, grad, of_bias = run([x[:0]], bias)
    assert out.shape == (0, 12, 5) and grad.shape == (0, 5, 3, 4) and not of_bias.any()


@pytest.mark.usefixtures('deterministic')
def test_runs_give_equal_bits():
    operands = make(*JOINED, device=DEVICE)
    assert all(map(torch.equal, run(*operands), run(*operands)))
