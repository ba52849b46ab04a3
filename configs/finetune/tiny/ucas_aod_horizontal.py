"""A tiny ViT + RVSA and a small Faster R-CNN on samples of UCAS-AOD: planes and cars."""

from mmengine.config import read_base

from mtp.data import COCODetection

with read_base():
    from ..._base_.finetune.backbones.vit_tiny_rvsa import *
    from ..._base_.finetune.horizontal_detection.dior import *
    from ..._base_.pretrain.models.multitask_small import small_detector

model.merge(small_detector)
model.merge(detector)
model.merge(
    dict(backbone=dict(img_size=400, with_cp=False), roi_head=dict(bbox_head=dict(num_classes=2)))
)
optim_wrapper.merge(optimization)

train_pipeline[2].update(scale=(400, 400))
test_pipeline[1].update(scale=(400, 400))
_data = dict(type=COCODetection, classes=('plane', 'car'), data_root='data/real/ucas_aod')
train_dataloader.update(
    num_workers=1,
    dataset=dict(
        _data,
        ann_file='train.json',
        data_prefix=dict(img='train/images'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
test_dataloader.update(
    num_workers=1,
    dataset=dict(
        _data,
        ann_file='val.json',
        data_prefix=dict(img='val/images'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_dataloader = test_dataloader
val_evaluator = test_evaluator

train_cfg.update(max_epochs=6, val_interval=2)
param_scheduler[0].update(end=50)
param_scheduler[1].update(milestones=[4, 5])
