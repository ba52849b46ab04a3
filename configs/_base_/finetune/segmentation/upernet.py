"""Semantic segmentation: UPerNet without auxiliary head, tested with a sliding window."""

from mmcv.transforms import RandomResize
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import LogProcessor
from mmseg.datasets.transforms import (
    PackSegInputs,
    PhotoMetricDistortion,
    RandomCrop,
    RandomFlip,
    Resize,
)
from mmseg.models import EncoderDecoder
from mmseg.models.losses import CrossEntropyLoss

from mtp.data import LoadClassMap, LoadImage
from mtp.models import BandSegDataPreprocessor, LeanUPerHead, PerDatasetBatchNorm

with read_base():
    from ..runtime import *
    from ..schedules.iterations import *

default_scope = 'mmseg'
default_hooks.logger.update(log_metric_by_epoch=False)
default_hooks.checkpoint.update(by_epoch=False, interval=8000)
log_processor = dict(type=LogProcessor, by_epoch=False)

model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(
        type=BandSegDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(),
    decode_head=dict(
        type=LeanUPerHead,
        channels=512,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        norm_cfg=dict(type=PerDatasetBatchNorm),
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss),
    ),
    test_cfg=dict(mode='slide'),
)

# The config of a data set sets the number of classes and the sizes, and uses the pipeline.
train_pipeline = [
    dict(type=LoadImage),
    dict(type=LoadClassMap),
    dict(type=RandomResize, ratio_range=(0.5, 2.0), keep_ratio=True, resize_type=Resize),
    dict(type=RandomCrop, cat_max_ratio=0.75),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PhotoMetricDistortion),
    dict(type=PackSegInputs),
]

total_batch_size = 8
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(test_mode=True),
)
