"""100 epochs: warm-up over the first 5 per iteration, then cosine to 0 per epoch."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from mtp.engine import AccumulatingEpochLoop

with read_base():
    from .adamw import *

param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, begin=5, T_max=95, eta_min=0.0, by_epoch=True),
]
train_cfg = dict(type=AccumulatingEpochLoop, max_epochs=100, val_interval=20)
