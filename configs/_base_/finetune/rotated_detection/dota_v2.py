"""DOTA-V2.0, single scale as in the paper: 40 epochs, flips but no rotation."""

from mmengine.config import read_base

from mtp.evaluation import DOTASubmission

with read_base():
    from .tiles import *

model.merge(dict(backbone=dict(img_size=1024), roi_head=dict(bbox_head=dict(num_classes=18))))

train_pipeline[3].update(scale=(1024, 1024))
test_pipeline[1].update(scale=(1024, 1024))
_data = dict(dataset='dota_v2', data_root='data/dota_v2')
train_dataloader.dataset.update(_data, pipeline=train_pipeline)
test_dataloader.dataset.update(_data, pipeline=test_pipeline)
test_evaluator = dict(type=DOTASubmission)

train_cfg.update(max_epochs=40)
param_scheduler[1].update(milestones=[24, 32, 38])
