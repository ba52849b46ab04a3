"""ViT-L + RVSA on EuroSAT."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.vit_l_rvsa import *
    from ...._base_.finetune.classification.eurosat import *

model.merge(classifier)
optim_wrapper.merge(optimization)
