"""ViT-B + RVSA on SpaceNet 1."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_b_rvsa import *
    from ...._base_.finetune.segmentation.spacenet_v1 import *

model.merge(segmentor)
optim_wrapper.merge(optimization)
