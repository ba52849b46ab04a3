"""The multi-task model with small decoders, which train on a CPU in minutes."""

from mmengine.config import read_base

with read_base():
    from .multitask import *

# Few proposals suffice for images with few objects; dropout would need more steps than a demo has.
_proposals = dict(nms_pre=256, max_per_img=128)
small_detector = dict(
    neck=dict(out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=dict(in_channels=64, fc_out_channels=128),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)), rpn_proposal=_proposals, rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(rpn=_proposals),
)

model.merge(
    dict(
        tasks=dict(
            semantic=dict(dropout_ratio=0.0, decode_head=dict(channels=64)),
            instance=small_detector,
            rotated=small_detector,
        )
    )
)
model.tasks.instance.roi_head.merge(
    dict(
        mask_roi_extractor=dict(out_channels=64, finest_scale=28),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64),
    )
)
