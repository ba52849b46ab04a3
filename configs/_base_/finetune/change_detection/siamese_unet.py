"""Change detection at 256 pixels: shared encoder, feature difference, UNet decoder."""

from mmcv.transforms import RandomApply, RandomChoice
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmseg.datasets.transforms import PackSegInputs, RandomCrop, RandomRotate, RandomRotFlip
from mmseg.models.losses import CrossEntropyLoss

from mtp.data import ChangeDataset, DistortPair, LoadChange, LoadPair, SwapDates
from mtp.evaluation import ChangeMetric
from mtp.models import (
    PairDataPreprocessor,
    PerDatasetBatchNorm,
    SiameseEncoderDecoder,
    UNetHead,
)

with read_base():
    from ..runtime import *
    from ..schedules.epochs import *

default_scope = 'mmseg'
# The paper's logs do not say whether its figures are of the last checkpoint or of the best on val.
default_hooks.checkpoint.update(interval=10, save_best='mIoU', rule='greater')

model = dict(
    type=SiameseEncoderDecoder,
    data_preprocessor=dict(
        type=PairDataPreprocessor, size=(256, 256), test_cfg=dict(size_divisor=32)
    ),
    backbone=dict(img_size=256),
    decode_head=dict(
        type=UNetHead,
        decoder_channels=(512, 256, 128, 64),
        dropout_ratio=0.1,
        norm_cfg=dict(type=PerDatasetBatchNorm),
        num_classes=2,
        out_channels=2,
        loss_decode=dict(type=CrossEntropyLoss),
    ),
    test_cfg=dict(mode='whole'),
)

train_pipeline = [
    dict(type=LoadPair),
    dict(type=LoadChange),
    dict(
        type=RandomChoice,
        prob=[0.5, 0.25, 0.25],
        transforms=[
            [dict(type=RandomRotate, prob=1.0, degree=20, pad_val=0, seg_pad_val=255)],
            [dict(type=RandomRotFlip, rotate_prob=0.0, flip_prob=1.0)],
            [],
        ],
    ),
    dict(type=RandomCrop, crop_size=(256, 256), cat_max_ratio=0.75),
    dict(type=RandomApply, prob=0.5, transforms=[dict(type=SwapDates)]),
    dict(
        type=DistortPair,
        brightness_delta=10,
        contrast_range=(0.8, 1.2),
        saturation_range=(0.8, 1.2),
        hue_delta=10,
    ),
    dict(type=PackSegInputs),
]
test_pipeline = [
    dict(type=LoadPair),
    dict(type=LoadChange),
    dict(
        type=PackSegInputs,
        meta_keys=('img_path', 'img_path2', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

total_batch_size = 32
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=ChangeDataset, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=ChangeDataset, split='val', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(
    val_dataloader,
    dataset=dict(type=ChangeDataset, split='test', test_mode=True, pipeline=test_pipeline),
)
val_evaluator = dict(type=ChangeMetric)
test_evaluator = val_evaluator
