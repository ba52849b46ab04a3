"""Normalisation of any number of bands."""

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample

from mtp.models import BandDetDataPreprocessor


def batch(image):
    sample = DetDataSample(metainfo=dict(img_shape=image.shape[1:]))
    return dict(inputs=[image], data_samples=[sample])


def test_three_bands_are_those_of_mmdet():
    options = dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    )
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    ours, theirs = (
        kind(**options)(batch(image)) for kind in (BandDetDataPreprocessor, DetDataPreprocessor)
    )
    assert torch.equal(ours['inputs'], theirs['inputs'])
    assert ours['data_samples'][0].pad_shape == theirs['data_samples'][0].pad_shape


@pytest.mark.parametrize('bands', [1, 4, 13])
def test_other_bands_keep_their_order(bands):
    mean, std = list(range(bands)), list(range(1, bands + 1))
    image = torch.rand(bands, 40, 50)
    preprocess = BandDetDataPreprocessor(mean=mean, std=std, bgr_to_rgb=True, pad_size_divisor=32)
    inputs = preprocess(batch(image))['inputs']
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    torch.testing.assert_close(inputs[0, :, :40, :50], (image - mean) / std)
    assert inputs.shape == (1, bands, 64, 64)
