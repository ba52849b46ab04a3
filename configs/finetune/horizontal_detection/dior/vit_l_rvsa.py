"""ViT-L + RVSA on DIOR."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_l_rvsa import *
    from ...._base_.finetune.horizontal_detection.dior import *

model.merge(detector)
optim_wrapper.paramwise_cfg.merge(optimization['paramwise_cfg'])
