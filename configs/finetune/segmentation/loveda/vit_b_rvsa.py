"""ViT-B + RVSA on LoveDA."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_b_rvsa import *
    from ...._base_.finetune.segmentation.loveda import *

model.merge(segmentor)
optim_wrapper.merge(optimization)
