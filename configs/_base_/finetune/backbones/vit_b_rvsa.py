"""ViT-B + RVSA for each task: a leaf config merges one of these into its `model`."""

from mtp.models import build_backbone

# `checkpoint` selects the initial weights: a name of mtp/models/weights/released.py, or a path.
_backbone = dict(
    type=build_backbone,
    name='vit_b_rvsa',
    drop_path_rate=0.3,
    init_cfg=dict(type='Pretrained', checkpoint='mtp'),
)
_channels = [768, 768, 768, 768]

classifier = dict(backbone=dict(_backbone, pyramid=False), head=dict(in_channels=768))
segmentor = dict(
    backbone=dict(_backbone, final_norm=False), decode_head=dict(in_channels=_channels)
)
# The released detectors have no relative position tables in full attention.
detector = dict(
    backbone=dict(_backbone, final_norm=False, relative_position=False),
    neck=dict(in_channels=_channels),
)
change_detector = dict(
    backbone=dict(_backbone, pyramid=False), decode_head=dict(in_channels=_channels)
)

optimization = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(layer_decay_rate=0.9))
