"""InternImage-XL on NWPU-RESISC45."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.internimage_xl import *
    from ...._base_.finetune.classification.resisc45 import *

model.merge(classifier)
optim_wrapper.merge(optimization)
