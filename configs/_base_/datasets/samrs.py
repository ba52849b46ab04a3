"""SAMRS: SOTA, SIOR and FAST, with the augmentations of the MTP pretraining."""
from mmcv.transforms import RandomResize
from mmengine.dataset import DefaultSampler
from mmseg.datasets.transforms import PhotoMetricDistortion

from mtp.data import (
    Crop,
    FilterInstances,
    Flip,
    LoadImage,
    LoadLabels,
    MultiDatasetSampler,
    MultiTaskDataset,
    PackLabels,
    Resize,
    SAMRSDataset,
)
from mtp.evaluation import MultiTaskMetric

num_classes = dict(
    sota=dict(num_classes=18), sior=dict(num_classes=20), fast=dict(num_classes=37))

train_pipeline = [
    dict(type=LoadImage),
    dict(type=LoadLabels),
    dict(type=Flip, prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type=RandomResize, scale=(448, 448), ratio_range=(0.5, 2.0), keep_ratio=True,
         resize_type=Resize),
    dict(type=Crop, size=448),
    dict(type=FilterInstances),
    dict(type=PhotoMetricDistortion),
    dict(type=PackLabels),
]
# Labels are loaded after the resize: metrics compare at the original size.
test_pipeline = [
    dict(type=LoadImage),
    dict(type=Resize, scale=(448, 448), keep_ratio=True),
    dict(type=LoadLabels),
    dict(type=PackLabels),
]

_subsets = [
    dict(type=SAMRSDataset, subset='sota', data_root='data/samrs/SOTA'),
    dict(type=SAMRSDataset, subset='sior', data_root='data/samrs/SIOR'),
    dict(type=SAMRSDataset, subset='fast', data_root='data/samrs/FAST'),
]
train_dataloader = dict(
    batch_size=3,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type=MultiDatasetSampler, images_per_dataset=1),
    dataset=dict(
        type=MultiTaskDataset,
        datasets=[dict(subset, pipeline=train_pipeline) for subset in _subsets]))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=MultiTaskDataset,
        datasets=[dict(subset, split='valid', test_mode=True, pipeline=test_pipeline)
                  for subset in _subsets]))
val_evaluator = dict(type=MultiTaskMetric)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
