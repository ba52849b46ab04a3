"""A schedule of minutes: one-cycle AdamW without layer decay, since nothing is pretrained."""
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from mtp.engine import LayerDecayOptimWrapperConstructor

_iterations = 500
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayOptimWrapperConstructor,
    paramwise_cfg=dict(layer_decay_rate=1.0),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, end=50, by_epoch=False),
    dict(type=CosineAnnealingLR, begin=50, T_max=_iterations - 50, eta_min=1e-6, by_epoch=False)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=_iterations, val_interval=_iterations)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
