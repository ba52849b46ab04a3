"""InternImage-XL for each task: a leaf config merges one of these into its `model`."""

from mtp.models import build_backbone

# `checkpoint` selects the initial weights: a name of mtp/models/weights/released.py, or a path.
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

# The paper's settings. In its released code, a wrong prefix disabled this decay.
optimization = dict(optimizer=dict(lr=2e-5), paramwise_cfg=dict(layer_decay_rate=0.94))
