"""Horizontal detection: common settings of its two detectors."""

from mmdet.datasets import AspectRatioBatchSampler
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler

from mtp.data import LoadImage
from mtp.evaluation import DetectionMetric
from mtp.models import BandDetDataPreprocessor

with read_base():
    from ..runtime import *
    from ..schedules.twelve_epochs import *

default_scope = 'mmdet'

model = dict(
    data_preprocessor=dict(
        type=BandDetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(),
)

# The config of a data set sets the scale of Resize.
train_pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, keep_ratio=True),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackDetInputs),
]
# Load labels after the resize: pictures of predictions have the original size.
test_pipeline = [
    dict(type=LoadImage),
    dict(type=Resize, keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(
        type=PackDetInputs,
        # the metric judges against `instances`, the reader's objects
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]

train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    batch_sampler=dict(type=AspectRatioBatchSampler),
    dataset=dict(filter_cfg=dict(filter_empty_gt=True, min_size=32)),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(test_mode=True),
)
test_evaluator = dict(type=DetectionMetric)
