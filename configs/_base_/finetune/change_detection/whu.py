"""WHU building change: 200 epochs."""

from mmengine.config import read_base

with read_base():
    from .siamese_unet import *

train_cfg.update(max_epochs=200, val_interval=40)
param_scheduler[1].update(T_max=195)
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader.dataset.update(data_root='data/whu', dataset='whu')
