"""SpaceNet 1: buildings of Rio de Janeiro, crops of 384; `{train,val}/{images,labels}/*.png`."""

from mmengine.config import read_base
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import PackSegInputs, Resize

from mtp.data import LoadClassMap, LoadImage
from mtp.evaluation import SegmentationMetric

with read_base():
    from .upernet import *

model.merge(
    dict(
        data_preprocessor=dict(size=(384, 384)),
        backbone=dict(img_size=384),
        decode_head=dict(num_classes=2, out_channels=2),
        test_cfg=dict(crop_size=(384, 384), stride=(256, 256)),
    )
)

train_pipeline[1].update(num_classes=2)
train_pipeline[2].update(scale=(384, 384))
train_pipeline[3].update(crop_size=(384, 384))
# Validation during training resizes each image to one window; tests use sliding windows.
val_pipeline = [
    dict(type=LoadImage),
    dict(type=Resize, scale=(384, 384), keep_ratio=False),
    dict(type=LoadClassMap, num_classes=2),  # at the original size
    dict(type=PackSegInputs),
]
test_pipeline = [
    dict(type=LoadImage),
    dict(type=LoadClassMap, num_classes=2),
    dict(type=PackSegInputs),
]

_data = dict(
    type=BaseSegDataset,
    data_root='data/spacenet_v1',
    img_suffix='.png',
    seg_map_suffix='.png',
    metainfo=dict(classes=('background', 'building'), palette=[[255, 255, 255], [255, 0, 0]]),
)
_val = dict(_data, data_prefix=dict(img_path='val/images', seg_map_path='val/labels'))
train_dataloader.dataset.update(
    _data,
    data_prefix=dict(img_path='train/images', seg_map_path='train/labels'),
    pipeline=train_pipeline,
)
test_dataloader.dataset.update(_val, pipeline=test_pipeline)
val_dataloader = dict(test_dataloader, dataset=dict(_val, test_mode=True, pipeline=val_pipeline))
val_evaluator = dict(type=SegmentationMetric)
test_evaluator = val_evaluator
