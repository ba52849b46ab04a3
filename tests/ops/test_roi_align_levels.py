"""RoIAlign from the levels of a pyramid."""

import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmrotate.models.roi_heads.roi_extractors import RotatedSingleRoIExtractor

from mtp.ops import roi_align_levels

STRIDES = [4, 8, 16]


def pyramid(images=2, channels=3, size=128, strides=STRIDES):
    return [
        torch.randn(images, channels, size // stride, size // stride + 1, requires_grad=True)
        for stride in strides
    ]


def some_rois(count, rotated, images=2, size=128):
    """From 4 pixels up to the whole image, partly outside of it."""
    image = torch.randint(images, (count, 1)).float()
    centre, sides = torch.rand(count, 2) * size, 2 ** (2 + 5 * torch.rand(count, 2))
    if rotated:
        return torch.cat([image, centre, sides, torch.rand(count, 1) * 6 - 3], 1)
    return torch.cat([image, centre - sides / 2, centre + sides / 2], 1)


def extractor(rotated, sampling_ratio):
    kind, layer = (
        (RotatedSingleRoIExtractor, {'type': 'RoIAlignRotated', 'clockwise': True})
        if rotated
        else (SingleRoIExtractor, {'type': 'RoIAlign'})
    )
    layer |= {'output_size': (4, 5), 'sampling_ratio': sampling_ratio}
    return kind(roi_layer=layer, out_channels=3, featmap_strides=STRIDES, finest_scale=16)


@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('rotated', [False, True])
def test_equals_the_libraries_extractors(rotated, sampling_ratio):
    features, rois = pyramid(), some_rois(40, rotated)
    theirs = extractor(rotated, sampling_ratio)
    levels = theirs.map_roi_levels(rois, len(STRIDES))
    assert levels.unique().tolist() == [0, 1, 2]
    empty = torch.tensor([3, 20])
    expected = theirs(features, rois).index_fill(0, empty, 0)
    levels[empty] = -1
    rois[empty] = -1.0  # an image that there is not
    out = roi_align_levels(features, rois, levels, (4, 5), STRIDES, sampling_ratio)
    torch.testing.assert_close(out, expected)
    cotangent = torch.randn_like(out)
    for grad, grad_expected in zip(
        *(torch.autograd.grad(form, features, cotangent) for form in (out, expected))
    ):
        torch.testing.assert_close(grad, grad_expected)


@pytest.mark.parametrize('rotated', [False, True])
def test_levels_without_rois_take_part_in_the_gradients(rotated):
    features = pyramid()
    for count in (0, 3):
        rois = some_rois(count, rotated)
        out = roi_align_levels(features, rois, torch.ones(count, dtype=torch.long), 2, STRIDES)
        assert out.shape == (count, 3, 2, 2)
        grads = torch.autograd.grad(out.sum(), features)
        assert [grad.any().item() for grad in grads] == [False, count > 0, False]
    out = roi_align_levels(features, rois, torch.full((3,), -1), 2, STRIDES)
    assert not out.any() and out.requires_grad


@pytest.mark.parametrize('rotated', [False, True])
def test_low_precision_keeps_coordinates(rotated):
    features = [level.detach().bfloat16() for level in pyramid()]
    rois, levels = some_rois(6, rotated), torch.arange(6) % 3
    out = roi_align_levels(features, rois, levels, 2, STRIDES)
    assert out.dtype == torch.bfloat16
    exact = roi_align_levels([level.float() for level in features], rois, levels, 2, STRIDES)
    torch.testing.assert_close(out, exact.bfloat16())


def test_wrong_input():
    features, rois = pyramid(), some_rois(2, False)
    levels = torch.tensor([0, 2])
    for wrong, message in (
        ((features[:2] + [features[2][:1]], rois, levels, 2, STRIDES), 'equal B, C and dtype'),
        ((features[:2] + [features[2].double()], rois, levels, 2, STRIDES), 'and dtype'),
        (([], rois, levels, 2, []), 'features must be'),
        ((features, rois, levels, 2, STRIDES[:2]), '3 levels need as many strides'),
        ((features, rois[:, :4], levels, 2, STRIDES), r'\(R, 5\).*\(R, 6\)'),
        ((features, rois, levels[:1], 2, STRIDES), '2 rois need as many levels'),
        ((features, rois, levels.float(), 2, STRIDES), 'int64'),
        ((features, rois, levels.to('meta'), 2, STRIDES), 'one device'),
        ((features, rois, levels + 1, 2, STRIDES), 'levels must be -1 to 2; got 1 to 3'),
        ((features, rois + 2, levels, 2, STRIDES), 'one of the 2 images'),
    ):
        with pytest.raises(ValueError, match=message):
            roi_align_levels(*wrong)
