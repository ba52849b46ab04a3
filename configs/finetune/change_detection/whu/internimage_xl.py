"""InternImage-XL on WHU building change."""
from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.internimage_xl import *
    from ...._base_.finetune.change_detection.whu import *

model.merge(change_detector)
model.backbone.init_cfg.checkpoint = 'mtp'  # or 'imagenet', or a path
optim_wrapper.merge(optimization)
