"""A tiny ViT + RVSA on seven cities of OSCD, tested on three others; tiles of 96 pixels."""

from mmengine.config import read_base

with read_base():
    from ..._base_.finetune.backbones.vit_tiny_rvsa import *
    from ..._base_.finetune.change_detection.siamese_unet import *

model.merge(change_detector)
model.merge(dict(data_preprocessor=dict(size=(96, 96)), backbone=dict(img_size=96)))
# Only 2 % of the pixels have changed: without weights, a model this small predicts no change.
model.decode_head.loss_decode.update(class_weight=[1.0, 20.0])
optim_wrapper.merge(optimization)

train_pipeline[3].update(crop_size=(96, 96))
total_batch_size = 16
train_dataloader.update(num_workers=1)
train_dataloader.dataset.update(data_root='data/real/oscd', dataset='oscd', pipeline=train_pipeline)
test_dataloader.update(num_workers=1)
test_dataloader.dataset.update(data_root='data/real/oscd', dataset='oscd')
val_dataloader = test_dataloader

train_cfg.update(max_epochs=16, val_interval=4)
param_scheduler[0].update(end=1)
param_scheduler[1].update(begin=1, T_max=15)
