"""Plain ViT-L on SpaceNet 1."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_l import *
    from ...._base_.finetune.segmentation.spacenet_v1 import *

model.merge(segmentor)
model.backbone.init_cfg.checkpoint = 'mae'
optim_wrapper.merge(optimization)
