"""The kernels of rotated RoIAlign against their twin in torch."""

import sys

import numpy as np
import pytest
import torch

from mtp.ops import roi_align_rotated as dispatched
from mtp.ops.roi_align_rotated import roi_align_rotated_torch
from tests.ops.test_roi_align_rotated import GOLDEN

kernels = pytest.importorskip('mtp.ops.triton.roi_align_rotated')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture
def on_triton(monkeypatch):
    module = sys.modules[dispatched.__module__]  # mtp.ops has a function of that name
    monkeypatch.setattr(module, 'use_triton', lambda *_: True)


def some_rois(count):
    rois = torch.rand(count, 6, device=DEVICE) * torch.tensor([2, 14, 10, 9, 9, 6.0], device=DEVICE)
    rois[:, 0].floor_()
    return rois


def assert_equal(features, rois, settings, tolerance=1e-5):
    """Settings: height, width, scale, sampling ratio, aligned, clockwise."""
    features = features.detach().requires_grad_()
    out = kernels.roi_align_rotated(features, rois, *settings)
    expected = roi_align_rotated_torch(features, rois, *settings)
    assert out.dtype == features.dtype and out.is_contiguous()
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    cotangent = torch.randn_like(out)
    gradients = [torch.autograd.grad(form, features, cotangent)[0] for form in (out, expected)]
    torch.testing.assert_close(*gradients, atol=10 * tolerance, rtol=tolerance)
    return out


@pytest.mark.parametrize('name', GOLDEN)
def test_golden(shared, on_triton, name):
    """Of a few RoIs, small and large, as the interpreter is slow: the others by the twin."""
    data = {
        key: torch.from_numpy(value).to(DEVICE)
        for key, value in np.load(shared / 'golden' / 'mmcv_ops.npz').items()
    }
    order = data['rois'][:, 3].argsort().tolist()
    few = order[:2] + order[-4:-2] + ([] if name == 'adaptive' else order[-1:])
    rest = [row for row in range(len(order)) if row not in few]
    cotangent, rois = data[f'roi_{name}_cotangent'], data['rois']
    features = data['roi_features'].clone().requires_grad_()
    out = dispatched(features, rois[few], **GOLDEN[name])
    torch.testing.assert_close(out, data[f'roi_{name}_out'][few], atol=1e-4, rtol=0)
    out.backward(cotangent[few])
    settings = {'sampling_ratio': 0, 'aligned': True, 'clockwise': False} | GOLDEN[name]
    del settings['output_size']
    others = roi_align_rotated_torch(features, rois[rest], *cotangent.shape[2:], **settings)
    others.backward(cotangent[rest])
    torch.testing.assert_close(features.grad, data[f'roi_{name}_grad'], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    'channels, settings',
    [
        (70, (5, 7, 1.0, 1, True, True)),
        (3, (3, 3, 0.5, 0, True, False)),
        (16, (1, 2, 0.5, 1, False, True)),
        (1, (7, 7, 1.0, 2, True, False)),
    ],
)
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_equals_the_twin(channels, settings, layout):
    features = torch.randn(2, channels, 11, 13, device=DEVICE).contiguous(memory_format=layout)
    assert_equal(features, some_rois(2), settings)


def test_outside_and_extreme():
    """Far away, huge, without area, turned many times; and what is no RoI at all."""
    rois = torch.tensor(
        [
            [0, 90, 90, 4, 4, 0.3],
            [0, -3, 5, 9, 4, 50.0],
            [1, 5, 5, 1e9, 1e9, 1.0],
            [1, 5, 5, 0, 0, 1.0],
            [0, 5, 5, -3, 4, 1.0],
            [1, 3e38, 5, 3e38, 3, 0.1],
            [0, float('nan'), 5, 3, 4, 0],
            [0, 5, 5, float('inf'), 4, 0],
            [0, 5, 5, 3, 4, float('nan')],
            [2, 5, 5, 3, 4, 0],
            [-1, 5, 5, 3, 4, 0],
            [float('nan'), 5, 5, 3, 4, 0],
        ],
        device=DEVICE,
    )
    features = torch.randn(2, 5, 11, 13, device=DEVICE)
    for aligned in (True, False):
        out = assert_equal(features, rois, (3, 3, 1.0, 2, aligned, False))
        assert out[:2].isfinite().all() and not out[5:].any()
    small = rois[[0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    assert not assert_equal(features, small, (3, 3, 1.0, 0, True, False))[4:].any()


def test_huge_regions_end(monkeypatch):
    if DEVICE == 'cpu':  # 1024 samples take the interpreter a minute
        monkeypatch.setattr(kernels, 'MOST_SAMPLES', kernels.tl.constexpr(8.0))
        module = sys.modules[dispatched.__module__]
        monkeypatch.setattr(module, 'MAX_ADAPTIVE_SAMPLES', 8)
    features = torch.randn(1, 2, 4, 5, device=DEVICE)
    rois = torch.tensor([[0, 2, 2, 1e12, 0.5, 0.0], [0, 2, 2, 0.5, 20, 0.4]], device=DEVICE)
    assert_equal(features, rois, (1, 1, 1.0, 0, True, False))


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_low_precision(dtype, tolerance):
    features = torch.randn(2, 6, 11, 13, device=DEVICE).to(dtype)
    assert_equal(features, some_rois(4), (3, 3, 1.0, 2, True, True), tolerance)


def test_nothing():
    for images, rois in ((1, 0), (0, 2)):
        features = torch.randn(images, 2, 5, 5, device=DEVICE, requires_grad=True)
        out = kernels.roi_align_rotated(
            features, torch.zeros(rois, 6, device=DEVICE), 3, 3, 1.0, 2, True, True
        )
        assert out.shape == (rois, 2, 3, 3) and not out.any()
        out.sum().backward()
        assert not features.grad.any()


def test_dispatch_and_compile(on_triton):
    features = torch.randn(2, 6, 11, 13, device=DEVICE, requires_grad=True)
    settings = (3, 1.0, 2)
    rois = some_rois(1)
    expected = roi_align_rotated_torch(features, rois, 3, 3, 1.0, 2, True, False)
    out = torch.compile(dispatched, fullgraph=True, backend='aot_eager')(features, rois, *settings)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(form.square().sum(), features)[0] for form in (out, expected))
    )
    torch.library.opcheck(kernels.roi_align_rotated, (features, rois, 3, 3, 1.0, 2, True, False))
