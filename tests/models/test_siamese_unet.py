"""The change detector: decoder equal to the released one, one encoder for both dates."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures import SegDataSample

from mtp.models import build_backbone
from mtp.models.siamese_unet import PairDataPreprocessor, SiameseEncoderDecoder, UNetHead
from mtp.registry import MODELS

HEAD = dict(
    type=UNetHead,
    num_classes=2,
    out_channels=2,
    norm_cfg=dict(type='BN'),
    loss_decode=dict(type=CrossEntropyLoss),
)


@pytest.mark.parametrize(
    ('name', 'channels'),
    [('unet_vit_scales', (12, 12, 12, 12)), ('unet_pyramid_scales', (6, 8, 12, 16))],
)
def test_decoder_equals_the_released_one(shared, name, channels):
    golden = {
        key: torch.from_numpy(value)
        for key, value in np.load(
            shared / 'golden' / 'change' / f'{name}.npz', allow_pickle=False
        ).items()
    }
    head = MODELS.build(dict(HEAD, in_channels=channels, decoder_channels=(16, 12, 8, 8))).eval()
    parameters = {
        key.removeprefix('param/'): value
        for key, value in golden.items()
        if key.startswith('param/')
    }
    assert set(parameters) == set(head.state_dict())
    head.load_state_dict(parameters)

    before = [golden[f'feat_before{i}'].float().requires_grad_() for i in range(4)]
    difference = [(x - golden[f'feat_after{i}'].float()).abs() for i, x in enumerate(before)]
    logits = head(difference)
    assert_close(logits, golden['logits'])
    (logits * golden['cotangent'].float()).sum().backward()
    for i, x in enumerate(before):
        assert_close(x.grad, golden[f'grad_feat_before{i}'])
    compared = 0
    for key, parameter in head.named_parameters():
        if f'grad/{key}' in golden:
            assert_close(parameter.grad, golden[f'grad/{key}'])
            compared += 1
    assert compared


def assert_close(value, reference):
    assert (value - reference).abs().max() <= 1e-5 * reference.abs().max()


def small_model(**test_cfg):
    return MODELS.build(
        ConfigDict(
            type=SiameseEncoderDecoder,
            data_preprocessor=dict(
                type=PairDataPreprocessor, size=(64, 64), test_cfg=dict(size_divisor=32)
            ),
            backbone=dict(type=build_backbone, name='vit_tiny_rvsa', img_size=64, pyramid=False),
            decode_head=dict(HEAD, in_channels=[128] * 4, decoder_channels=(16, 16, 8, 8)),
            test_cfg=test_cfg,
        )
    )


def pair(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (6, height, width), generator=generator, dtype=torch.uint8)
    sample = SegDataSample(metainfo=dict(ori_shape=(height, width), img_shape=(height, width)))
    label = torch.randint(0, 2, (1, height, width), generator=generator)
    sample.gt_sem_seg = PixelData(data=label)
    return image, sample


def test_preprocessing_turns_each_date_to_rgb_and_normalises_it():
    image, sample = pair(40, 64)
    batch = PairDataPreprocessor(size=(64, 64))(
        dict(inputs=[image], data_samples=[sample]), training=True
    )
    first = (image[2, 0, 0] - 123.675) / 58.395
    second = (image[3, 0, 0] - 103.53) / 57.375
    assert torch.allclose(batch['inputs'][0, [0, 5], 0, 0], torch.stack([first, second]))
    assert batch['inputs'].shape == (1, 6, 64, 64)
    assert (batch['data_samples'][0].gt_sem_seg.data[0, 40:] == 255).all()


def test_dates_of_other_than_three_bands_keep_their_order():
    image, sample = pair(64, 64)
    bands = torch.cat([image, image[:4]])  # twice 5
    data = dict(inputs=[bands], data_samples=[sample])
    mean, std = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 6.0]
    batch = PairDataPreprocessor(mean=mean, std=std, size=(64, 64))(data, training=True)
    expected = (bands - torch.tensor(mean * 2)[:, None, None]) / torch.tensor(std * 2)[
        :, None, None
    ]
    torch.testing.assert_close(batch['inputs'][0], expected)


def test_order_of_the_dates_does_not_matter_and_equal_dates_give_no_difference():
    model = small_model(mode='whole').eval()
    x = torch.randn(1, 6, 64, 64)
    forward, backward = model.extract_feat(x), model.extract_feat(x.roll(3, dims=1))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(forward, backward))
    assert forward[0].shape == (1, 128, 4, 4) and forward[0].abs().max() > 1e-3
    same = model.extract_feat(torch.cat([x[:, :3], x[:, :3]], 1))
    assert max(f.abs().max() for f in same) < 1e-5
    alone = model.backbone(x[:, :3])
    assert torch.allclose(forward[3], (alone[3] - model.backbone(x[:, 3:])[3]).abs(), atol=1e-5)


@pytest.mark.parametrize(
    'test_cfg', [dict(mode='whole'), dict(mode='slide', crop_size=(64, 64), stride=(32, 32))]
)
def test_predictions_have_the_size_of_the_original(test_cfg):
    model = small_model(**test_cfg).eval()
    image, sample = pair(50, 90)
    with torch.no_grad():
        (found,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    assert found.pred_sem_seg.data.shape == (1, 50, 90)
    assert found.seg_logits.data.shape == (2, 50, 90)


def test_learns_a_change():
    model = small_model(mode='whole')
    model.decode_head.dropout = None
    image, sample = pair(64, 64)
    image[3:] = image[:3]
    image[3:, 16:48, 16:48] = 255 - image[3:, 16:48, 16:48]
    sample.gt_sem_seg.data.zero_()
    sample.gt_sem_seg.data[0, 16:48, 16:48] = 1
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        batch = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]), training=True)
        loss = model(**batch, mode='loss')['decode.loss_ce']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert model.backbone.blocks[0].mlp.fc1.weight.grad.abs().max() > 0


def test_pixels_labelled_255_do_not_count():
    model = small_model(mode='whole').eval()
    image, sample = pair(64, 64)
    label = sample.gt_sem_seg.data.clone()

    def loss(marked):
        sample.gt_sem_seg.data = marked
        batch = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]), training=True)
        return model(**batch, mode='loss')['decode.loss_ce'].item()

    left, right = label.clone(), label.clone()
    left[..., 32:], right[..., :32] = 255, 255
    # mmseg averages over all pixels, so that the halves add up
    assert loss(left) + loss(right) == pytest.approx(loss(label), rel=1e-4)
    assert loss(torch.full_like(label, 255)) == 0
