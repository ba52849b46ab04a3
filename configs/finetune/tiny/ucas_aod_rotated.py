"""A tiny ViT + RVSA and a small Oriented R-CNN on samples of UCAS-AOD: planes and cars."""

from mmengine.config import read_base

from mtp.data import BoxFilesDetection
from mtp.evaluation import RotatedMetric

with read_base():
    from ..._base_.finetune.backbones.vit_tiny_rvsa import *
    from ..._base_.finetune.rotated_detection.oriented_rcnn import *
    from ..._base_.pretrain.models.multitask_small import small_detector

model.merge(small_detector)
model.merge(detector)
model.merge(
    dict(backbone=dict(img_size=400, with_cp=False), roi_head=dict(bbox_head=dict(num_classes=2)))
)
optim_wrapper.merge(optimization)

train_pipeline[3].update(scale=(400, 400))
val_pipeline[1].update(scale=(400, 400))
_data = dict(
    type=BoxFilesDetection,
    format='dota',
    classes=('plane', 'car'),
    data_root='data/real/ucas_aod',
)
train_dataloader.update(
    num_workers=1,
    dataset=dict(
        _data,
        ann_file='train/annfiles',
        data_prefix=dict(img_path='train/images'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
test_dataloader.update(
    num_workers=1,
    dataset=dict(
        _data,
        ann_file='val/annfiles',
        data_prefix=dict(img_path='val/images'),
        test_mode=True,
        pipeline=val_pipeline,
    ),
)
test_evaluator = dict(type=RotatedMetric, eval_mode='11points')
val_dataloader = test_dataloader
val_evaluator = test_evaluator

train_cfg.update(max_epochs=6, val_interval=2)
param_scheduler[0].update(end=50)
param_scheduler[1].update(milestones=[4, 5])
