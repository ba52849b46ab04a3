"""Six iterations of the toy model, with the hooks of every run."""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.optim import CosineAnnealingLR
from mmengine.runner import TestLoop
from torch.optim import AdamW

from mtp.engine import AccumulatingIterLoop, MixedPrecisionOptimWrapper
from tests.tools.toy import ToyDataset, ToyMetric, ToyModel

with read_base():
    from ...configs._base_.pretrain.runtime import *

model = dict(type=ToyModel, backbone=dict(dropout=0.5))
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type=ToyDataset),
    sampler=dict(type=InfiniteSampler, shuffle=True),
)
train_cfg = dict(type=AccumulatingIterLoop, max_iters=6)
optim_wrapper = dict(
    type=MixedPrecisionOptimWrapper, optimizer=dict(type=AdamW, lr=1e-2, fused=True)
)
param_scheduler = [dict(type=CosineAnnealingLR, T_max=6, by_epoch=False)]
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type=ToyDataset),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
test_cfg = dict(type=TestLoop)
test_evaluator = dict(type=ToyMetric)
# its backbone does not tell which parts to compile
default_hooks.merge(
    dict(logger=dict(interval=2), checkpoint=dict(interval=3), compilation=dict(mode='off'))
)
