"""ViT-L + RVSA on SAMRS: the paper's multi-task pretraining, started from MAE."""
from mmengine.config import read_base

from mtp.models import build_backbone

with read_base():
    from .._base_.datasets.samrs import *  # noqa: F403
    from .._base_.models.multitask import *  # noqa: F403
    from .._base_.runtime import *  # noqa: F403
    from .._base_.schedules.mtp_80k import *  # noqa: F403

model.merge(dict(  # noqa: F405
    datasets=num_classes,  # noqa: F405
    data_preprocessor=dict(pad_size_divisor=448),
    backbone=dict(
        type=build_backbone, name='vit_l_rvsa', img_size=448, drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mae_pretrain_vit_large.pth'))))
