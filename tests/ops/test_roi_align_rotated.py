"""RoIAlign of rotated regions."""

import math
import sys

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from mtp.ops import roi_align_rotated

# settings of the recorded arrays
GOLDEN = {
    'official': {'output_size': 7, 'spatial_scale': 0.125, 'sampling_ratio': 2, 'clockwise': True},
    'adaptive': {'output_size': (5, 7), 'spatial_scale': 0.125, 'clockwise': True},
    'legacy': {'output_size': 7, 'spatial_scale': 0.25, 'sampling_ratio': 2, 'aligned': False},
}


@pytest.mark.parametrize('name', GOLDEN)
def test_golden(shared, name):
    data = {
        key: torch.from_numpy(value)
        for key, value in np.load(shared / 'golden' / 'mmcv_ops.npz').items()
    }
    features = data['roi_features'].clone().requires_grad_()
    out = roi_align_rotated(features, data['rois'], **GOLDEN[name])
    torch.testing.assert_close(out, data[f'roi_{name}_out'], atol=1e-4, rtol=0)
    out.backward(data[f'roi_{name}_cotangent'])
    torch.testing.assert_close(features.grad, data[f'roi_{name}_grad'], atol=1e-4, rtol=0)


@pytest.mark.parametrize('sampling_ratio', [0, 3])
def test_unrotated_equals_roi_align(sampling_ratio):
    features = torch.randn(2, 3, 16, 20)
    rois = torch.tensor([[0, 4.0, 6, 30, 40], [1, 10, 10, 50, 22.5], [0, -8, 3, 20, 31]])
    centres = torch.stack(
        [
            rois[:, 0],
            (rois[:, 1] + rois[:, 3]) / 2,
            (rois[:, 2] + rois[:, 4]) / 2,
            rois[:, 3] - rois[:, 1],
            rois[:, 4] - rois[:, 2],
            0 * rois[:, 0],
        ],
        1,
    )
    expected = roi_align(features, rois, (4, 5), 0.5, sampling_ratio or -1, aligned=True)
    out = roi_align_rotated(features, centres, (4, 5), 0.5, sampling_ratio)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_quarter_turn_permutes_bins():
    features = torch.randn(1, 2, 32, 32)
    upright = torch.tensor([[0, 16.0, 15, 12, 12, 0]])
    turned = upright + torch.tensor([0, 0, 0, 0, 0, math.pi / 2])
    out = roi_align_rotated(features, upright, 4, 1.0, 2)
    torch.testing.assert_close(
        roi_align_rotated(features, turned, 4, 1.0, 2), out.rot90(-1, (2, 3)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        roi_align_rotated(features, turned, 4, 1.0, 2, clockwise=True),
        out.rot90(1, (2, 3)),
        atol=1e-5,
        rtol=0,
    )


def test_gradient_in_double():
    # the last lies outside
    rois = torch.tensor(
        [[0, 4.0, 4, 5, 3, 0.4], [0, 1, 7, 9, 2, -1.1], [1, 30, 30, 2, 2, 0]], dtype=torch.float64
    )
    features = torch.randn(2, 2, 8, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: roi_align_rotated(x, rois, 2, 1.0), (features,))
    assert not roi_align_rotated(features, rois, 2, 1.0)[2].any()


def test_chunks_do_not_show(monkeypatch):
    features = torch.randn(2, 3, 16, 16, requires_grad=True)
    rois = torch.rand(20, 6) * torch.tensor([2, 16, 16, 12, 12, 3.0])
    rois[:, 0].floor_()
    whole = roi_align_rotated(features, rois, 3, 1.0)
    cotangent = torch.randn_like(whole)
    (gradient,) = torch.autograd.grad(whole, features, cotangent)
    module = sys.modules[roi_align_rotated.__module__]  # mtp.ops has a function of that name
    monkeypatch.setattr(module, '_SAMPLES_PER_CHUNK', 100)  # less than some RoIs take
    parts = roi_align_rotated(features, rois, 3, 1.0)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, features, cotangent)[0], gradient)


def test_roi_without_area_takes_no_adaptive_samples():
    """As torchvision's RoIAlign (and mmcv's): 0, and its neighbours are not disturbed."""
    features = torch.randn(1, 2, 8, 8)
    rois = torch.tensor([[0, 4.0, 4, 5, 3, 0.4], [0, 4, 4, 0, 3, 0], [0, 3, 4, 2, 3, 1.0]])
    out = roi_align_rotated(features, rois, 3, 1.0)
    assert (
        not out[1].any()
        and not roi_align(
            features, torch.tensor([[0, 4.0, 2.5, 4, 5.5]]), 3, 1.0, aligned=True
        ).any()
    )
    torch.testing.assert_close(out[[0, 2]], roi_align_rotated(features, rois[[0, 2]], 3, 1.0))
    assert roi_align_rotated(features, rois, 3, 1.0, 2)[1].any()


def test_empty_low_precision_and_wrong_input():
    features = torch.randn(1, 2, 8, 8, requires_grad=True)
    none = roi_align_rotated(features, torch.zeros(0, 6), 7, 1.0)
    assert none.shape == (0, 2, 7, 7)
    none.sum().backward()  # a batch without proposals still trains
    assert not features.grad.any()
    roi = torch.tensor([[0, 4.0, 4, 5, 3, 0.4]])
    half = roi_align_rotated(features.bfloat16(), roi, 3, 1.0)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.float(), roi_align_rotated(features, roi, 3, 1.0), atol=3e-2, rtol=3e-2
    )
    with pytest.raises(ValueError, match=r'\(N, 6\)'):
        roi_align_rotated(features, torch.zeros(2, 5), 7, 1.0)
    for image in (-1.0, 1.0):
        with pytest.raises(ValueError, match='one of the 1 images'):
            roi_align_rotated(features, torch.tensor([[image, 4, 4, 5, 3, 0]]), 7, 1.0)
