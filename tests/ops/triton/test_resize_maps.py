"""Resizing of maps: the kernels against torch's operators in float64."""

import pytest
import torch

from mtp.ops import dispatch, resize_maps

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# channels, height, width of each map, the size of the result, and whether it is added to a map
JOINED = [(5, 4, 5), (3, 2, 3), (70, 2, 1)], (4, 5), False
ADDED = [(3, 4, 2)], (5, 7), True
SHRUNK = [(3, 7, 5), (2, 9, 1)], (2, 3), False


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


def make(shapes, size, adds, dtype=torch.float32, layout=torch.channels_last):
    """Maps of two images, and what is added to the result."""
    generator = torch.Generator().manual_seed(0)
    shapes = [*shapes, (sum(c for c, *_ in shapes), *size)][: len(shapes) + adds]
    return [
        torch.randn(2, *shape, generator=generator).to(dtype).contiguous(memory_format=layout)
        for shape in shapes
    ]


def run(operands, size, adds):
    """Result and gradients."""
    operands = [x.detach().requires_grad_() for x in operands]
    maps, addend = (operands[:-1], operands[-1]) if adds else (operands, None)
    out = resize_maps(maps, size, addend)
    cotangent = torch.linspace(-7, 7, out.numel(), dtype=torch.float64).sin().view(out.shape)
    grads = torch.autograd.grad(out, operands, cotangent.to(out.dtype).to(out.device))
    return [t.detach().cpu() for t in (out, *grads)]


def expected(monkeypatch, operands, size, adds):
    monkeypatch.setattr(dispatch, 'SETTING', 'torch')
    return run([x.double() for x in operands], size, adds)


def assert_near(found, wanted, tolerance):
    for result, reference in zip(found, wanted, strict=True):
        assert result.shape == reference.shape
        torch.testing.assert_close(
            result.double(), reference, rtol=0, atol=tolerance * float(reference.abs().max())
        )


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(('shapes', 'size', 'adds'), [JOINED, ADDED, SHRUNK])
def test_equals_torch(shapes, size, adds, layout, monkeypatch):
    operands = make(shapes, size, adds, layout=layout)
    found = run([x.to(DEVICE) for x in operands], size, adds)
    assert_near(found, expected(monkeypatch, operands, size, adds), 1e-6)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(('shapes', 'size', 'adds'), [JOINED, ADDED])
def test_16_bits_are_rounded_once(shapes, size, adds, dtype, monkeypatch):
    operands = make(shapes, size, adds, dtype)
    found = run([x.to(DEVICE) for x in operands], size, adds)
    assert {t.dtype for t in found} == {dtype}
    wanted = expected(monkeypatch, operands, size, adds)
    assert_near(found, wanted, torch.finfo(dtype).eps)
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_maps_of_several_dtypes():
    wide, narrow = make([(2, 4, 4), (3, 2, 2)], (4, 4), False)
    out, *grads = run([wide.to(DEVICE), narrow.to(DEVICE, torch.bfloat16)], (4, 4), False)
    assert [t.dtype for t in (out, *grads)] == [torch.float32, torch.float32, torch.bfloat16]


def test_what_has_no_weight_is_not_read():
    coarse = torch.zeros(1, 1, 3, 3, device=DEVICE)
    coarse[..., 1, 1] = float('inf')
    out = resize_maps([coarse], (3, 3)), resize_maps([coarse], (9, 9))
    assert out[0].equal(coarse) and out[1].isinf().sum() == 25 and not out[1].isnan().any()


@pytest.mark.usefixtures('deterministic')
def test_runs_give_equal_bits():
    operands = [x.to(DEVICE) for x in make(*ADDED)]
    first, second = (run(operands, *ADDED[1:]) for _ in range(2))
    assert all(map(torch.equal, first, second))
