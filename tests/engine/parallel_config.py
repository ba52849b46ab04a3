"""A tiny pretraining of two tasks on eight images, for several processes."""

from mmengine.config import read_base
from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.optim import LinearLR
from torch.optim import AdamW

from mtp.engine import (
    AccumulatingIterLoop,
    LayerDecayOptimWrapperConstructor,
    MixedPrecisionOptimWrapper,
)
from mtp.models.backbones.vit_rvsa import ViTRVSA
from tests.engine.labelled import TASKS, LabelledImages

with read_base():
    from ...configs._base_.pretrain.models.multitask_small import *
    from ...configs._base_.pretrain.runtime import *

model.merge(
    dict(
        datasets={name: dict(num_classes=2, tasks=TASKS) for name in 'ab'},
        data_preprocessor=dict(pad_size_divisor=64),
        backbone=dict(
            type=ViTRVSA,
            img_size=64,
            embed_dim=48,
            depth=4,
            num_heads=3,
            interval=2,
            out_indices=(0, 1, 2, 3),
        ),
    )
)
del model.tasks['rotated']  # (as instance, and twice as slow)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(type=LabelledImages),
    sampler=dict(type=InfiniteSampler, shuffle=False),
    collate_fn=dict(type=pseudo_collate),
)
train_cfg = dict(type=AccumulatingIterLoop, max_iters=4)
# A large eps: without it Adam makes whole steps of what is rounding.
optim_wrapper = dict(
    type=MixedPrecisionOptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.05, eps=1e-3),
    constructor=LayerDecayOptimWrapperConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.9),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [dict(type=LinearLR, start_factor=0.5, end=4, by_epoch=False)]
default_hooks.merge(dict(logger=dict(interval=1), checkpoint=dict(interval=2)))
log_processor.update(window_size=1)
visualizer.vis_backends = []
