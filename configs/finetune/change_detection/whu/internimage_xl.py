"""InternImage-XL on WHU building change."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.internimage_xl import *
    from ...._base_.finetune.change_detection.whu import *

model.merge(change_detector)
optim_wrapper.merge(optimization)
