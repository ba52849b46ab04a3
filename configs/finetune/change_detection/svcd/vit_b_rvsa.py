"""ViT-B + RVSA on SVCD (CDD)."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_b_rvsa import *
    from ...._base_.finetune.change_detection.svcd import *

model.merge(change_detector)
optim_wrapper.merge(optimization)
