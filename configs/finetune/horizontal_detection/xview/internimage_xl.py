"""InternImage-XL on xView."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.internimage_xl import *
    from ...._base_.finetune.horizontal_detection.xview import *

model.merge(detector)
optim_wrapper.paramwise_cfg.merge(optimization['paramwise_cfg'])
