"""A tiny ViT + RVSA on samples of AID at 144 pixels: 1200 real scenes of 30 classes."""

from mmengine.config import read_base

from mtp.data import SceneDataset

with read_base():
    from ..._base_.finetune.backbones.vit_tiny_rvsa import *
    from ..._base_.finetune.classification.classifier import *

model.merge(classifier)
model.merge(dict(backbone=dict(img_size=144), head=dict(num_classes=30)))
optim_wrapper.merge(optimization)

train_pipeline[1].update(scale=144)
del train_pipeline[3:5]  # a model this small needs no strong augmentation
test_pipeline[1].update(scale=144)
test_pipeline[2].update(crop_size=144)
total_batch_size = 40
_data = dict(type=SceneDataset, data_root='data/real/aid')
train_dataloader.update(
    num_workers=1, dataset=dict(_data, data_prefix='train', pipeline=train_pipeline)
)
val_dataloader.update(
    num_workers=1,
    dataset=dict(_data, data_prefix='val', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg.update(max_epochs=12, val_interval=2)
param_scheduler[0].update(end=1)
param_scheduler[1].update(begin=1, T_max=11)
