"""The schedule of the MTP pretraining: AdamW with layer decay, cosine to 0 over 80k iterations."""

from mmengine.optim import CosineAnnealingLR
from mmengine.runner import TestLoop, ValLoop

from mtp.engine import (
    AccumulatingIterLoop,
    FusedAdamW,
    LayerDecayOptimWrapperConstructor,
    MixedPrecisionOptimWrapper,
)

optim_wrapper = dict(
    type=MixedPrecisionOptimWrapper,
    optimizer=dict(type=FusedAdamW, lr=6e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayOptimWrapperConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.9),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [dict(type=CosineAnnealingLR, T_max=80_000, eta_min=0.0, by_epoch=False)]
train_cfg = dict(type=AccumulatingIterLoop, max_iters=80_000, val_interval=80_000)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
