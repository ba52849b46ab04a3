"""InternImage-XL as each task takes it: a leaf config merges one of these into its `model`."""

from mtp.models import build_backbone

# `checkpoint` is the one variable of a start: a name of mtp/models/weights/released.py, or a path.
_backbone = dict(
    type=build_backbone,
    name='internimage_xl',
    drop_path_rate=0.2,
    init_cfg=dict(type='Pretrained', checkpoint='mtp'),
)
_channels = [192, 384, 768, 1536]

classifier = dict(backbone=_backbone, head=dict(in_channels=1536))
segmentor = dict(backbone=_backbone, decode_head=dict(in_channels=_channels))
detector = dict(backbone=_backbone, neck=dict(in_channels=_channels))
change_detector = dict(backbone=_backbone, decode_head=dict(in_channels=_channels))

# The paper's settings. In its released code a wrong prefix kept this decay from acting.
optimization = dict(optimizer=dict(lr=2e-5), paramwise_cfg=dict(layer_decay_rate=0.94))
