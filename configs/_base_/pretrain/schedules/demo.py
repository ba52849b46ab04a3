"""A schedule of minutes: warm-up and cosine; no layer decay, since nothing is pretrained."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

with read_base():
    from .mtp_80k import *

optim_wrapper.optimizer.update(lr=1e-3)
optim_wrapper.paramwise_cfg.update(layer_decay_rate=1.0)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, end=50, by_epoch=False),
    dict(type=CosineAnnealingLR, begin=50, T_max=450, eta_min=1e-6, by_epoch=False),
]
train_cfg.update(max_iters=500, val_interval=500)
