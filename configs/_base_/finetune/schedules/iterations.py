"""80k iterations: warm-up over the first 1500, then cosine to 0."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR

from mtp.engine import AccumulatingIterLoop

with read_base():
    from .adamw import *

param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, end=1500, by_epoch=False),
    dict(type=CosineAnnealingLR, begin=1500, T_max=78_500, eta_min=0.0, by_epoch=False),
]
train_cfg = dict(type=AccumulatingIterLoop, max_iters=80_000, val_interval=8000)
