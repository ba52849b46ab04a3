"""A tiny InternImage on synthetic images: trains all three tasks on two CPU cores in minutes."""

from mmengine.config import read_base

with read_base():
    from .._base_.pretrain.demo import *

model.backbone.update(name='internimage_pico')
