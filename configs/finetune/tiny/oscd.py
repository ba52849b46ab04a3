"""A tiny ViT + RVSA on seven cities of OSCD, tested on three others."""
from mmengine.config import read_base

with read_base():
    from ..._base_.finetune.backbones.vit_tiny_rvsa import *
    from ..._base_.finetune.change_detection.oscd import *

model.merge(change_detector)
optim_wrapper.merge(optimization)

total_batch_size = 16
train_dataloader.update(num_workers=1)
val_dataloader.update(num_workers=1)
for _loader in (train_dataloader, val_dataloader):
    _loader.dataset.data_root = 'data/real/oscd'
test_dataloader = val_dataloader

train_cfg.update(max_epochs=6, val_interval=1)
param_scheduler[0].update(end=1)
param_scheduler[1].update(begin=1, T_max=5)
