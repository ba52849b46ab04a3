"""ViT-B + RVSA on SAMRS: the paper's multi-task pretraining, started from MAE."""

from mmengine.config import read_base

with read_base():
    from .._base_.pretrain.samrs_tasks import *

model.backbone.update(
    name='vit_b_rvsa',
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mae_pretrain_vit_base.pth'),
)
