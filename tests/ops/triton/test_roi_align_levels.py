"""The kernels of RoIAlign from several levels against torchvision and the rotated twin."""

import sys

import pytest
import torch

from mtp.ops import roi_align_levels as dispatched
from mtp.ops.roi_align_levels import roi_align_levels_torch
from tests.ops.test_roi_align_levels import pyramid, some_rois

kernels = pytest.importorskip('mtp.ops.triton.roi_align_levels')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
SCALES = [1 / 4, 1 / 8]


def features_of(channels=3, dtype=torch.float32):
    return [
        level.detach().to(DEVICE, dtype).requires_grad_()
        for level in pyramid(channels=channels, size=64, strides=[4, 8])
    ]


def assert_equal(features, rois, levels, bins, sampling_ratio, tolerance=1e-5):
    args = features, rois.to(DEVICE), levels.to(DEVICE), *bins, SCALES, sampling_ratio
    out, expected = (form(*args) for form in (kernels.roi_align_levels, roi_align_levels_torch))
    assert out.dtype == features[0].dtype and out.is_contiguous()
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    cotangent = torch.randn_like(out)
    for grad, grad_expected in zip(
        *(torch.autograd.grad(form, features, cotangent) for form in (out, expected))
    ):
        torch.testing.assert_close(grad, grad_expected, atol=10 * tolerance, rtol=tolerance)
    return out


@pytest.mark.parametrize('rotated', [False, True])
@pytest.mark.parametrize('channels, bins, sampling_ratio', [(3, (3, 2), 0), (70, (5, 7), 1)])
def test_equals_the_twin(rotated, channels, bins, sampling_ratio):
    rois = some_rois(4, rotated, size=64)
    rois[:, 3:5] = rois[:, 3:5].clamp(max=64.0)  # larger ones cost the interpreter time
    levels = torch.tensor([0, -1, 1, 1])
    rois[1] = -1
    out = assert_equal(features_of(channels), rois, levels, bins, sampling_ratio)
    assert [roi.any().item() for roi in out] == [True, False, True, True]


def test_upright_rois_of_whole_pixels_take_as_many_samples():
    """Sizes that are a multiple of the bins', where rounding up could go one too far."""
    rois = torch.tensor([[0, 8.0, 4, 40, 36], [1, 0, 0, 24, 48], [1, 5, 5, 5, 9], [0, 9, 9, 3, 20]])
    out = assert_equal(features_of(), rois, torch.tensor([0, 1, 0, 0]), (2, 4), 0)
    assert not out[2:].any()  # neither width nor a negative one gives samples


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_low_precision(dtype, tolerance):
    assert_equal(
        features_of(dtype=dtype),
        some_rois(2, False, size=32),
        torch.arange(2),
        (2, 2),
        2,
        tolerance,
    )


@pytest.mark.parametrize('rotated', [False, True])
def test_nothing(rotated):
    features = features_of()
    none = torch.zeros(0, dtype=torch.long)
    assert_equal(features, some_rois(0, rotated), none, (2, 2), 2)
    empty = assert_equal(features, some_rois(2, rotated), torch.tensor([-1, -1]), (2, 2), 2)
    assert not empty.any()


def test_dispatch_and_compile(monkeypatch):
    module = sys.modules[dispatched.__module__]  # mtp.ops has a function of that name
    monkeypatch.setattr(module, 'use_triton', lambda *_: True)
    features, rois = features_of(), some_rois(2, True, size=32).to(DEVICE)
    levels = torch.arange(2, device=DEVICE)
    expected = roi_align_levels_torch(features, rois, levels, 2, 2, SCALES, 2)
    compiled = torch.compile(dispatched, fullgraph=True, backend='aot_eager')
    out = compiled(features, rois, levels, 2, [4, 8], 2)
    torch.testing.assert_close(out, expected)
    for grads in zip(
        *(torch.autograd.grad(form.square().sum(), features) for form in (out, expected))
    ):
        torch.testing.assert_close(*grads)
    torch.library.opcheck(kernels.roi_align_levels, (features, rois, levels, 2, 2, SCALES, 2))
