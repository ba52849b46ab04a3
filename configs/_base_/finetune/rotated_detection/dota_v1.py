"""DOTA-V1.0, single scale: tiles of 1024 pixels."""

from mmengine.config import read_base
from mmrotate.datasets.transforms import RandomRotate

from mtp.evaluation import DOTASubmission

with read_base():
    from .tiles import *

model.merge(dict(backbone=dict(img_size=1024), roi_head=dict(bbox_head=dict(num_classes=15))))

train_pipeline[3].update(scale=(1024, 1024))
test_pipeline[1].update(scale=(1024, 1024))
# Storage tanks and roundabouts have no orientation: their boxes are horizontal.
train_pipeline.insert(
    5, dict(type=RandomRotate, prob=0.5, angle_range=180, rect_obj_labels=[9, 11])
)

_data = dict(dataset='dota_v1', data_root='data/dota_v1')
train_dataloader.dataset.update(_data, pipeline=train_pipeline)
test_dataloader.dataset.update(_data, pipeline=test_pipeline)
test_evaluator = dict(type=DOTASubmission)
