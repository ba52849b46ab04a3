"""ViT-L + RVSA on GVLM."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_l_rvsa import *
    from ...._base_.finetune.change_detection.gvlm import *

model.merge(change_detector)
optim_wrapper.merge(optimization)
