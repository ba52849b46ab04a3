"""SAMRS: SOTA, SIOR and FAST, with the augmentations of the MTP pretraining."""

from mmengine.dataset import DefaultSampler

from mtp.data import (
    DrawDistortion,
    LoadCrop,
    LoadImage,
    LoadLabels,
    MultiDatasetSampler,
    MultiTaskDataset,
    PackLabels,
    Resize,
    SAMRSDataset,
)
from mtp.evaluation import MultiTaskMetric
from mtp.sample_fields import pack_batch

num_classes = dict(sota=dict(num_classes=18), sior=dict(num_classes=20), fast=dict(num_classes=37))

train_pipeline = [
    dict(type=LoadCrop, size=448, ratio_range=(0.5, 2.0)),
    dict(type=DrawDistortion),
    dict(type=PackLabels),
]
# Load labels after the resize: metrics compare at the original size.
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
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type=pack_batch),
    sampler=dict(type=MultiDatasetSampler, images_per_dataset=1),
    dataset=dict(
        type=MultiTaskDataset,
        datasets=[dict(subset, pipeline=train_pipeline) for subset in _subsets],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=MultiTaskDataset,
        datasets=[
            dict(subset, split='valid', test_mode=True, pipeline=test_pipeline)
            for subset in _subsets
        ],
    ),
)
val_evaluator = dict(type=MultiTaskMetric)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
