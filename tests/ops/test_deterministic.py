"""Gradients in a set order: the same numbers as torch's own, by none of its unordered operators."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import roi_align as torchvision_roi_align

from mtp.ops import deterministic, dispatch, roi_align, trials
from mtp.ops.deterministic import in_order

UNORDERED = {
    'grid_sampler_2d_backward',
    'upsample_bicubic2d_backward',
    '_roi_align_backward',
    '_adaptive_avg_pool2d_backward',
}


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __enter__(self):
        self.names = set()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def ordered(monkeypatch):
    """Take the forms that a GPU would."""
    for module in (deterministic, roi_align):
        monkeypatch.setattr(module, 'in_order', lambda tensor: True)


def assert_equal(function, reference, *operands):
    operands = [operand.double().requires_grad_() for operand in operands]
    results = []
    for form in (function, reference):
        out = form(*operands)
        cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        with Operators() as operators:
            results.append((out, *torch.autograd.grad(out, operands, cotangent)))
        assert bool(operators.names & UNORDERED) == (form is reference)
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures('ordered')
@pytest.mark.parametrize('align_corners', [False, True])
def test_grid_sample(align_corners):
    assert_equal(
        lambda *args: deterministic.grid_sample(*args, align_corners),
        lambda *args: F.grid_sample(*args, align_corners=align_corners),
        torch.randn(2, 3, 5, 7),
        torch.randn(2, 4, 6, 2),
    )


@pytest.mark.usefixtures('ordered')
def test_positions_that_are_no_numbers_sample_nothing():
    grid = torch.tensor([float('nan'), float('inf'), -1e30]).expand(2, 3)
    grid = grid.T[None, None].contiguous().requires_grad_()
    image = torch.randn(1, 2, 3, 3, requires_grad=True)
    out = deterministic.grid_sample(image, grid, False)
    out.sum().backward()
    assert not out.any() and not image.grad.any() and not grid.grad.any()


@pytest.mark.usefixtures('ordered')
@pytest.mark.parametrize('size', [(5, 7), (9, 3), (12, 15)])
def test_bicubic(size):
    assert_equal(
        lambda image: deterministic.bicubic(image, size),
        lambda image: F.interpolate(image, size=size, mode='bicubic'),
        torch.randn(2, 3, 6, 7),
    )


@pytest.mark.usefixtures('ordered')
@pytest.mark.parametrize('size', [2, 3, (5, None)])
def test_adaptive_pooling(size):
    assert_equal(
        deterministic.AdaptiveAvgPool2d(size),
        torch.nn.AdaptiveAvgPool2d(size),
        torch.randn(2, 3, 7, 8),
    )


@pytest.mark.usefixtures('ordered')
@pytest.mark.parametrize(('ratio', 'aligned'), [(0, True), (2, True), (0, False)])
def test_roi_align(ratio, aligned):
    rois = torch.tensor([[0, 1.0, 2, 20, 15], [1, -4, 3, 9, 40], [1, 5, 5, 5, 5], [0, 9, 9, 3, 4]])
    rois = rois[: 4 if aligned else 3].double()
    assert_equal(
        lambda image: roi_align.roi_align(image, rois, 3, 2, 0.5, ratio, aligned),
        lambda image: torchvision_roi_align(image, rois, (3, 2), 0.5, ratio or -1, aligned),
        torch.randn(2, 3, 12, 16),
    )


@pytest.mark.usefixtures('ordered')
@pytest.mark.parametrize(
    'name', ['dcnv3', 'roi_align_levels', 'roi_align_rotated', 'rotated_window_attention']
)
def test_twins_of_kernels_add_in_order(name, monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'torch')
    function, tensors = trials.calls('cpu', torch.float32)[name]
    with Operators() as operators:
        function(*tensors).sum().backward()
    assert len(operators.names) > 5 and not operators.names & UNORDERED


@pytest.mark.usefixtures('deterministic')
def test_a_cpu_takes_torchs_own():
    assert in_order(torch.zeros(1, device='meta')) and not in_order(torch.zeros(1))


def test_default_settings_take_torchs_own():
    assert not in_order(torch.zeros(1, device='meta'))
