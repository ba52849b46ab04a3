"""Batch normalisation of groups: the kernels against ``nn.BatchNorm2d`` of each in float64."""

import importlib

import pytest
import torch
from torch import nn

from mtp.ops import dispatch, grouped_batch_norm

module = importlib.import_module('mtp.ops.grouped_batch_norm')  # the function has its name
# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')
    if DEVICE == 'cpu':  # the interpreter runs one program after the other
        from mtp.ops.triton import grouped_batch_norm as kernels

        monkeypatch.setattr(kernels, 'SPLITS', 4)


@pytest.fixture(params=['one launch', 'three launches'])
def _form(request, monkeypatch):
    """Both forms, of groups of few rows."""
    if request.param == 'three launches':
        monkeypatch.setattr(module, 'BATCH_NORM_FEW_ROWS', 0)
    else:
        from mtp.ops.triton import grouped_batch_norm as kernels

        monkeypatch.setattr(kernels, '_sums_kernel', None)


def make(sizes, channels, side, distance=0.0, layout=torch.channels_last):
    """Maps, of which those of a channel and group have a mean far from zero, and a layer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(sizes), channels, *side, generator=generator)
    x += distance * torch.randn(channels, 1, 1, generator=generator)
    layer = nn.BatchNorm2d(channels).double()
    nn.init.normal_(layer.weight, generator=generator)
    nn.init.normal_(layer.bias, generator=generator)
    return x.contiguous(memory_format=layout), layer


def reference(x, layer, sizes, relu):
    """Output, gradients and running statistics in float64."""
    x = x.double().requires_grad_()
    out = torch.cat([layer(part) for part in x.split(sizes)])
    out = out.relu() if relu else out
    out.backward(cotangent(out))
    return [out, *(t.grad for t in (x, layer.weight, layer.bias)), *layer.buffers()]


def run(x, layer, sizes, relu, normalise=grouped_batch_norm):
    """The same of the kernels, for parameters in float32."""
    x = x.detach().to(DEVICE).requires_grad_()
    weight, bias, *running = (t.detach().to(DEVICE, copy=True) for t in layer.state_dict().values())
    weight, bias, *running = (t.float() if t.dim() else t for t in (weight, bias, *running))
    learned = [x, weight.requires_grad_(), bias.requires_grad_()]
    out = normalise(*learned, *running, sizes, layer.momentum, layer.eps, relu=relu)
    assert out.stride() == x.stride() and out.dtype == x.dtype
    grads = torch.autograd.grad(out, learned, cotangent(out))
    assert grads[0].stride() == x.stride()
    return [t.detach().cpu() for t in (out, *grads, *running)]


def cotangent(out):
    """A gradient that depends on the place, laid out like contiguous maps."""
    values = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float64)
    return (values * 7).sin().view(out.shape).to(out.dtype)


def assert_near(found, expected, tolerance):
    for result, wanted in zip(found, expected, strict=True):
        largest = float(wanted.detach().abs().max())
        torch.testing.assert_close(
            result.double(), wanted.detach().double(), rtol=0, atol=tolerance * largest
        )


@pytest.mark.parametrize(
    ('sizes', 'channels', 'side', 'relu', 'layout'),
    [
        ([2], 3, (33, 65), False, torch.channels_last),  # several rounds of a program that sums
        ([1, 4], 16, (16, 16), True, torch.contiguous_format),
    ],
)
def test_equals_batch_norm_of_each_group(sizes, channels, side, relu, layout):
    x, layer = make(sizes, channels, side, layout=layout)
    assert_near(run(x, layer, sizes, relu), reference(x, layer, sizes, relu), 1e-5)


@pytest.mark.usefixtures('_form')
@pytest.mark.parametrize(
    ('sizes', 'channels', 'side', 'relu', 'layout'),
    [
        ([1, 3, 2], 80, (5, 3), True, torch.channels_last),
        ([1, 3, 2], 80, (5, 3), False, torch.contiguous_format),
        ([2, 3, 2, 2], 5, (1, 1), True, torch.channels_last),
    ],
)
def test_groups_of_few_rows(sizes, channels, side, relu, layout):
    test_equals_batch_norm_of_each_group(sizes, channels, side, relu, layout)


def test_largest_group_of_few_rows():
    x, layer = make([2, 1], 3, (16, 16))  # 512 rows and 256
    assert_near(run(x, layer, [2, 1], True), reference(x, layer, [2, 1], True), 1e-5)


@pytest.mark.usefixtures('_form')
def test_compiled():
    x, layer = make([1, 3], 4, (5, 3))
    torch._dynamo.reset()
    compiled = torch.compile(grouped_batch_norm, fullgraph=True, backend='aot_eager')
    expected, found = (
        run(x, layer, [1, 3], True, normalise) for normalise in (grouped_batch_norm, compiled)
    )
    assert all(map(torch.equal, found, expected))


@pytest.mark.usefixtures('_form')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bits(dtype):
    x, layer = make([1, 3], 17, (9, 8))
    x = x.to(dtype)
    found = run(x, layer, [1, 3], True)
    expected = reference(x, layer, [1, 3], True)
    assert_near(found, expected, 1e-2)
    assert_near(found[4:], expected[4:], 1e-5)  # statistics are of float32


@pytest.mark.parametrize('side', [(40, 40), (13, 13)])
def test_mean_far_from_zero(side):
    sizes = [1, 3]
    x, layer = make(sizes, 3, side, distance=1e3)
    found, expected = run(x, layer, sizes, False), reference(x, layer, sizes, False)
    assert_near(found[:4], expected[:4], 1e-3)  # of values with steps of 0.0001
    assert_near(found[4:], expected[4:], 1e-5)


@pytest.mark.usefixtures('_form')
@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning')
def test_maps_that_are_not_finite():
    for bad in (float('nan'), float('inf')):
        x, layer = make([2, 1], 2, (4, 4))
        x[0, 1, 2, 2] = bad
        out, grad_x, *_, mean, var, number = run(x, layer, [2, 1], True)
        for maps in (out, grad_x):
            assert maps[:2, 1].isnan().all() and maps[2].isfinite().all()
            assert maps[:, 0].isfinite().all()
        assert mean[0].isfinite() and var[0].isfinite() and number == 2
        assert not mean[1].isfinite() and not var[1].isfinite()


@pytest.mark.parametrize('side', [(20, 9), (7, 9)])
def test_runs_give_equal_bits(side):
    x, layer = make([1, 3], 5, side)
    first, second = (run(x, layer, [1, 3], True) for _ in range(2))
    assert all(map(torch.equal, first, second))
