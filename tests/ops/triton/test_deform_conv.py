"""DCNv3: the kernel against recorded calls and its torch twin."""

import pytest
import torch

from mtp.ops import dcnv3, dispatch
from mtp.ops.deform_conv import dcnv3_torch
from mtp.ops.triton import deform_conv
from tests.ops.test_deform_conv import GOLDEN, assert_golden, golden

# of the interpreter's loops over a number that is no constant
pytestmark = pytest.mark.filterwarnings('ignore:Conversion of an array:DeprecationWarning')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture(autouse=True)
def _kernel(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')


@pytest.fixture
def large_tiles(monkeypatch):
    """Fewer programs, each of which costs the interpreter some 0.2 s."""

    def tile(kernel, channels):
        return {'BLOCK_P': 128, 'BLOCK_G': 4, 'BLOCK_C': 16}, 4

    if DEVICE == 'cpu':
        monkeypatch.setattr(deform_conv, '_tile', tile)


def operands(
    shape,
    group,
    channels,
    kernel_size,
    stride=1,
    pad=0,
    dilation=1,
    offset_scale=1.0,
    remove_center=False,
    spread=1.0,
    dtype=torch.float32,
):
    """Random input, offset and mask (the latter float32), and the settings of a call."""
    settings = (kernel_size, stride, pad, dilation, group, offset_scale, remove_center)
    taps = kernel_size**2 - remove_center
    out = [(side + 2 * pad - dilation * (kernel_size - 1) - 1) // stride + 1 for side in shape[1:]]
    input = torch.randn(*shape, group * channels, device=DEVICE).to(dtype)
    offset = spread * torch.randn(shape[0], *out, group * taps * 2, device=DEVICE)
    mask = torch.rand(shape[0], *out, group * taps, device=DEVICE)
    return [tensor.requires_grad_() for tensor in (input, offset, mask)], settings


def assert_equal_to_twin(tensors, settings, atol=2e-5):
    """Output and the three gradients."""
    group = settings[4]
    out = dcnv3(*tensors, *settings[:5], tensors[0].shape[3] // group, *settings[5:])
    expected = dcnv3_torch(*tensors, *settings)
    cotangent = torch.randn_like(expected)
    results = (out, *torch.autograd.grad(out, tensors, cotangent))
    references = (expected, *torch.autograd.grad(expected, tensors, cotangent))
    for result, reference in zip(results, references):
        assert result.dtype == reference.dtype
        low = result.dtype != torch.float32
        torch.testing.assert_close(result, reference, atol=atol, rtol=0.01 if low else 1e-4)


@pytest.mark.usefixtures('large_tiles')
@pytest.mark.parametrize('name', GOLDEN)
def test_golden(shared, name):
    settings, data = golden(shared, name)
    assert_golden(dcnv3, {key: value.to(DEVICE) for key, value in data.items()}, settings)


# As launched: several programs along positions and groups, and tiles that stick out.
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(('group', 'channels'), [(5, 16), (3, 5), (1, 40)])
def test_tiles(group, channels, dtype):
    assert_equal_to_twin(*operands((2, 1, 5), group, channels, 1, offset_scale=2.0, dtype=dtype))


@pytest.mark.usefixtures('large_tiles')
@pytest.mark.parametrize(
    'case',
    [
        {'shape': (1, 7, 6), 'stride': 2, 'dilation': 2, 'pad': 2},
        {'shape': (1, 5, 6), 'pad': 1, 'offset_scale': 2.0, 'remove_center': True},
        {'shape': (1, 6, 5), 'kernel_size': 5, 'pad': 2, 'dtype': torch.bfloat16},
        {'shape': (1, 1, 1), 'pad': 1},
        {'shape': (0, 5, 6), 'pad': 1},
        {'shape': (1, 5, 6), 'pad': 1, 'spread': 1e4},
    ],
    ids=['stride-dilation', 'remove-center', 'k5-bfloat16', 'one-pixel', 'empty', 'far-outside'],
)
def test_settings(case):
    assert_equal_to_twin(*operands(**{'group': 2, 'channels': 8, 'kernel_size': 3, **case}))


@pytest.mark.usefixtures('large_tiles')
def test_whole_offsets_take_the_slope_to_the_right():
    """Every training starts so: a position just below a pixel would have another gradient."""
    values = torch.arange(600.0, device=DEVICE).square()
    offset = torch.zeros(1, 1, 600, 2, device=DEVICE, requires_grad=True)
    mask = torch.ones(1, 1, 600, 1, device=DEVICE)
    out = dcnv3(values.view(1, 1, 600, 1), offset, mask, 1, 1, 0, 1, 1, 1, 3.0)
    out.sum().backward()
    assert torch.equal(out.flatten(), values)
    assert torch.equal(offset.grad[0, 0, :-1, 0], 3 * values.diff())


def test_noncontiguous_tensors_some_of_them_frozen():
    tensors, settings = operands((1, 4, 3), 2, 4, 1)
    out = dcnv3_torch(*tensors, *settings)
    swapped = [tensor.detach().transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    mask = swapped[2].requires_grad_()
    result = dcnv3(*swapped, 1, 1, 0, 1, 2, 4, 1.0)
    torch.testing.assert_close(result, out)
    cotangent = torch.randn_like(out).transpose(1, 2).contiguous().transpose(1, 2)
    result.backward(cotangent)
    torch.testing.assert_close(mask.grad, torch.autograd.grad(out, tensors[2], cotangent)[0])


def test_groups_too_wide_for_a_program_run_in_torch(monkeypatch):
    monkeypatch.setattr(deform_conv, '_launch', None)  # which nobody may call
    tensors, settings = operands((1, 1, 1), 1, 1025, 1)
    assert_equal_to_twin(tensors, settings)


def test_operator_is_registered_in_full():
    tensors, settings = operands((1, 2, 3), 1, 4, 1)
    torch.library.opcheck(deform_conv.dcnv3, (*tensors, *settings))


def test_compiles_in_one_graph():
    tensors, _ = operands((1, 2, 3), 1, 4, 1)

    def function(*args):
        return dcnv3(*args, 1, 1, 0, 1, 1, 4, 1.0)

    eager = function(*tensors)
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')(*tensors)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(
        torch.autograd.grad(compiled.sum(), tensors), torch.autograd.grad(eager.sum(), tensors)
    )
