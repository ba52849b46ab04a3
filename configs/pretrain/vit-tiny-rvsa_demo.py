"""A tiny ViT + RVSA on synthetic images: learns all three tasks on two CPU cores in minutes."""
from mmengine.config import read_base

from mtp.models import build_backbone

with read_base():
    from .._base_.datasets.synthetic import *
    from .._base_.models.multitask_small import *
    from .._base_.runtime import *
    from .._base_.schedules.demo import *

model.merge(dict(
    datasets=num_classes,
    data_preprocessor=dict(pad_size_divisor=128),
    backbone=dict(type=build_backbone, name='vit_tiny_rvsa', img_size=128)))
