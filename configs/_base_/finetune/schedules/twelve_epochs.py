"""12 epochs: warm-up over 500 iterations, the learning rate divided by 10 after epochs 8 and 11."""

from mmengine.config import read_base
from mmengine.optim import LinearLR, MultiStepLR

from mtp.engine import AccumulatingEpochLoop

with read_base():
    from .adamw import *

# The same learning rate for all backbones.
optim_wrapper.optimizer.update(lr=1e-4)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, end=500, by_epoch=False),
    dict(type=MultiStepLR, milestones=[8, 11], gamma=0.1, by_epoch=True),
]
train_cfg = dict(type=AccumulatingEpochLoop, max_epochs=12, val_interval=3)
