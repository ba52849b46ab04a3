"""LEVIR-CD: 150 epochs."""

from mmengine.config import read_base

with read_base():
    from .siamese_unet import *

train_cfg.update(max_epochs=150, val_interval=30)
param_scheduler[1].update(T_max=145)
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader.dataset.update(data_root='data/levir', dataset='levir')
