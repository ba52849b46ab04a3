"""Plain ViT-L with full attention in every block: the paper uses it on SpaceNet, from MAE only."""

from mtp.models import build_backbone

segmentor = dict(
    backbone=dict(
        type=build_backbone,
        name='vit_l',
        drop_path_rate=0.3,
        final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint='mae'),
    ),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024]),
)

optimization = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
