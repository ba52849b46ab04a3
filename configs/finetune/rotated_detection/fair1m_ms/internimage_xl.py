"""InternImage-XL on FAIR1M-2.0, multi-scale."""

from mmengine.config import read_base

with read_base():
    from ...._base_.finetune.backbones.internimage_xl import *
    from ...._base_.finetune.rotated_detection.fair1m_ms import *

model.merge(detector)
optim_wrapper.paramwise_cfg.merge(optimization['paramwise_cfg'])
