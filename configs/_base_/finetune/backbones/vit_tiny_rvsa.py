"""Tiny ViT + RVSA for trials on a CPU, initialised by the pretraining of docs/real_images.md."""

from mtp.models import build_backbone

_backbone = dict(
    type=build_backbone,
    name='vit_tiny_rvsa',
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/vit_tiny_rvsa_nwpu/encoder.pth'),
)
_channels = [128, 128, 128, 128]

classifier = dict(backbone=dict(_backbone, pyramid=False), head=dict(in_channels=128))
detector = dict(backbone=_backbone, neck=dict(in_channels=_channels))
segmentor = dict(backbone=_backbone, decode_head=dict(in_channels=_channels))
change_detector = dict(
    backbone=dict(_backbone, pyramid=False),
    decode_head=dict(in_channels=_channels, decoder_channels=(64, 64, 32, 32)),
)

optimization = dict(optimizer=dict(lr=5e-4), paramwise_cfg=dict(layer_decay_rate=0.9))
