"""FAIR1M-2.0, single scale: tiles of 800 pixels, 37 classes."""

from mmengine.config import read_base
from mmrotate.datasets.transforms import RandomRotate

from mtp.evaluation import FAIR1MSubmission

with read_base():
    from .tiles import *

model.merge(dict(backbone=dict(img_size=800), roi_head=dict(bbox_head=dict(num_classes=37))))

train_pipeline[3].update(scale=(800, 800))
test_pipeline[1].update(scale=(800, 800))
train_pipeline.insert(5, dict(type=RandomRotate, prob=0.5, angle_range=180))

_data = dict(dataset='fair1m', data_root='data/fair1m')
train_dataloader.dataset.update(_data, pipeline=train_pipeline)
test_dataloader.dataset.update(_data, pipeline=test_pipeline)
test_evaluator = dict(type=FAIR1MSubmission)
