"""Synthetic SAMRS of ``tools/data/make_synthetic.py``: three subsets of 128-pixel images."""

from mmengine.config import read_base

from mtp.data import SAMRSDataset

with read_base():
    from .samrs import *

num_classes = dict(sota=dict(num_classes=4), sior=dict(num_classes=4), fast=dict(num_classes=4))

train_pipeline[0].update(size=128, ratio_range=(0.8, 1.25))
test_pipeline[1].update(scale=(128, 128))
_subsets = [
    dict(
        type=SAMRSDataset,
        subset='sota',
        data_root='data/synthetic/SOTA',
        classes=('plane', 'ship', 'tennis-court', 'storage-tank'),
    ),
    dict(
        type=SAMRSDataset,
        subset='sior',
        data_root='data/synthetic/SIOR',
        classes=('airplane', 'vehicle', 'basketballcourt', 'ship'),
    ),
    dict(
        type=SAMRSDataset,
        subset='fast',
        data_root='data/synthetic/FAST',
        classes=('Boeing737', 'Cargo-Truck', 'Roundabout', 'Fishing-Boat'),
    ),
]
train_dataloader.merge(
    dict(
        num_workers=1,
        pin_memory=False,
        dataset=dict(datasets=[dict(s, pipeline=train_pipeline) for s in _subsets]),
    )
)
val_dataloader.merge(
    dict(
        batch_size=4,
        num_workers=1,
        dataset=dict(
            datasets=[
                dict(s, split='valid', test_mode=True, pipeline=test_pipeline) for s in _subsets
            ]
        ),
    )
)
test_dataloader = val_dataloader
