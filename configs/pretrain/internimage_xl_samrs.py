"""InternImage-XL on SAMRS: the paper's multi-task pretraining, started from ImageNet weights."""

from mmengine.config import read_base

with read_base():
    from .._base_.pretrain.samrs_tasks import *

model.backbone.update(
    name='internimage_xl',
    drop_path_rate=0.2,
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/internimage_xl_22kto1k_384.pth'),
)
optim_wrapper.optimizer.update(lr=2e-5)
optim_wrapper.paramwise_cfg.update(layer_decay_rate=0.94)
