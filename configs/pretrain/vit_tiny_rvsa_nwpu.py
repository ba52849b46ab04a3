"""A tiny ViT + RVSA on real aerial images: the three tasks on NWPU VHR-10, on a CPU."""

from mmengine.config import read_base

from mtp.models import build_backbone

with read_base():
    from .._base_.pretrain.datasets.nwpu import *
    from .._base_.pretrain.models.multitask_small import *
    from .._base_.pretrain.runtime import *
    from .._base_.pretrain.schedules.demo import *

total_batch_size = 4

model.merge(
    dict(
        datasets=num_classes,
        data_preprocessor=dict(pad_size_divisor=256),
        backbone=dict(type=build_backbone, name='vit_tiny_rvsa', img_size=256),
    )
)
train_cfg.update(max_iters=1200, val_interval=1200)
param_scheduler[1].update(T_max=1150)
