"""ViT-L + RVSA on NWPU-RESISC45."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_l_rvsa import *
    from ...._base_.finetune.classification.resisc45 import *

model.merge(classifier)
optim_wrapper.merge(optimization)
