"""InternImage-XL on SpaceNet 1."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.internimage_xl import *
    from ...._base_.finetune.segmentation.spacenet_v1 import *

model.merge(segmentor)
optim_wrapper.merge(optimization)
