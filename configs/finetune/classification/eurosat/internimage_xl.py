"""InternImage-XL on EuroSAT."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.internimage_xl import *
    from ...._base_.finetune.classification.eurosat import *

model.merge(classifier)
optim_wrapper.merge(optimization)
