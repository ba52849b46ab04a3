"""Scene classification at 224 pixels: a linear layer on the mean of the last feature map."""

from mmcv.transforms import RandomFlip
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets.transforms import (
    CenterCrop,
    PackInputs,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    ResizeEdge,
)
from mmpretrain.models import (
    ClsDataPreprocessor,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
)
from mmpretrain.models.losses import CrossEntropyLoss

from mtp.data import LoadImage
from mtp.evaluation import ClassificationMetric

with read_base():
    from ..runtime import *
    from ..schedules.epochs import *

default_scope = 'mmpretrain'  # RandAugment refers to its operations by strings
default_hooks.checkpoint.update(interval=10)

_mean, _std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
model = dict(
    type=ImageClassifier,
    data_preprocessor=dict(type=ClsDataPreprocessor, mean=_mean, std=_std, to_rgb=True),
    backbone=dict(img_size=224),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, loss=dict(type=CrossEntropyLoss)),
)

train_pipeline = [
    dict(type=LoadImage),
    dict(type=RandomResizedCrop, scale=224, backend='pillow', interpolation='bicubic'),
    dict(type=RandomFlip, prob=0.5, direction='horizontal'),
    dict(
        type=RandAugment,
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),  # the mean, BGR
    ),
    dict(
        type=RandomErasing,
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=_mean[::-1],
        fill_std=_std[::-1],
    ),
    dict(type=PackInputs),
]
test_pipeline = [
    dict(type=LoadImage),
    dict(type=ResizeEdge, scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type=CenterCrop, crop_size=224),
    dict(type=PackInputs),
]

total_batch_size = 64
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(pipeline=test_pipeline, test_mode=True),
)
val_evaluator = dict(type=ClassificationMetric)
