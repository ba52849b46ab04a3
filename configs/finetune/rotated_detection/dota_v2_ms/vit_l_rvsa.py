"""ViT-L + RVSA on DOTA-V2.0, multi-scale."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_l_rvsa import *
    from ...._base_.finetune.rotated_detection.dota_v2_ms import *

model.merge(detector)
optim_wrapper.paramwise_cfg.merge(optimization['paramwise_cfg'])
