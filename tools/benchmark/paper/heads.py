"""The decoders of the paper's code, as configs of the libraries' own modules.

The settings are those of the MTP pretraining; with ``small`` those of ``multitask_small.py`` for a
CPU. They are written out here, so that the reference does not change with our configs.
"""

from typing import Any

from torch.nn import Identity


def semantic(in_channels: list[int], classes: int, small: bool) -> dict[str, Any]:
    """Return mmseg's UPerNet with a classifier of ``classes`` and the background."""
    return dict(
        type='mmseg.UPerHead',
        in_channels=in_channels,
        in_index=[0, 1, 2, 3],
        channels=64 if small else 256,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.0 if small else 0.1,
        num_classes=classes + 1,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='mmseg.CrossEntropyLoss'),
    )


def instance(in_channels: list[int], classes: int, small: bool) -> dict[str, Any]:
    """Return mmdet's Mask R-CNN; its backbone passes on the features that it is given."""
    width = 64 if small else 256
    cfg = _detector(in_channels, classes, small, low_quality=True, rotated=False)
    cfg['rpn_head'] |= dict(
        type='RPNHead', bbox_coder=dict(type='DeltaXYWHBBoxCoder'), loss_bbox=dict(type='L1Loss')
    )
    cfg['roi_head'] |= dict(
        bbox_roi_extractor=_extractor(
            'SingleRoIExtractor', small, type='RoIAlign', output_size=7, sampling_ratio=0
        ),
        mask_roi_extractor=_extractor(
            'SingleRoIExtractor', small, type='RoIAlign', output_size=14, sampling_ratio=0
        ),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=2 if small else 4,
            in_channels=width,
            conv_out_channels=width,
            num_classes=classes,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
        ),
    )
    cfg['roi_head']['bbox_head'] |= dict(
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_bbox=dict(type='L1Loss'),
    )
    cfg['train_cfg']['rcnn']['mask_size'] = 28
    return cfg


def rotated(in_channels: list[int], classes: int, small: bool) -> dict[str, Any]:
    """Return mmrotate's Oriented R-CNN (le90); its backbone passes on the features."""
    cfg = _detector(in_channels, classes, small, low_quality=False, rotated=True)
    cfg['rpn_head'] |= dict(
        type='mmrotate.OrientedRPNHead',
        bbox_coder=dict(
            type='mmrotate.MidpointOffsetCoder',
            angle_version='le90',
            target_means=[0.0] * 6,
            target_stds=[1.0, 1.0, 1.0, 1.0, 0.5, 0.5],
        ),
        loss_bbox=dict(type='SmoothL1Loss', beta=1 / 9),
    )
    cfg['rpn_head']['anchor_generator']['use_box_type'] = True
    cfg['roi_head']['bbox_roi_extractor'] = _extractor(
        'mmrotate.RotatedSingleRoIExtractor',
        small,
        type='RoIAlignRotated',
        output_size=7,
        sampling_ratio=2,
        clockwise=True,
    )
    cfg['roi_head']['bbox_head'] |= dict(
        predict_box_type='rbox',
        reg_class_agnostic=True,
        bbox_coder=dict(
            type='mmrotate.DeltaXYWHTRBBoxCoder',
            angle_version='le90',
            edge_swap=True,
            proj_xy=True,
            target_means=[0.0] * 5,
            target_stds=[0.1, 0.1, 0.2, 0.2, 0.1],
        ),
        loss_bbox=dict(type='SmoothL1Loss', beta=1.0),
    )
    return cfg


def _detector(
    in_channels: list[int], classes: int, small: bool, low_quality: bool, rotated: bool
) -> dict[str, Any]:
    """Return the settings that the two detectors share."""
    width = 64 if small else 256
    proposals = 2000 if rotated else 1000
    overlaps = [
        dict(type=f'mmrotate.{name}') if rotated else dict(type='BboxOverlaps2D')
        for name in ('RBbox2HBboxOverlaps2D', 'RBboxOverlaps2D')
    ]
    proposal_cfg = dict(
        nms_pre=256 if small else 2000,
        max_per_img=128 if small else proposals,
        nms=dict(type='nms', iou_threshold=0.8 if rotated else 0.7),
        min_bbox_size=0,
    )
    return dict(
        type='TwoStageDetector',
        backbone=dict(type=Identity),
        neck=dict(type='FPN', in_channels=in_channels, out_channels=width, num_outs=5),
        rpn_head=dict(
            in_channels=width,
            feat_channels=width,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[4 if small else 8],
                ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
            ),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=width,
                roi_feat_size=7,
                num_classes=classes,
                fc_out_channels=128 if small else 1024,
                loss_cls=dict(type='CrossEntropyLoss'),
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=0.7,
                    neg_iou_thr=0.3,
                    min_pos_iou=0.3,
                    match_low_quality=True,
                    iou_calculator=overlaps[0],
                ),
                sampler=dict(
                    type='RandomSampler',
                    num=64 if small else 256,
                    pos_fraction=0.5,
                    add_gt_as_proposals=False,
                ),
                allowed_border=0 if rotated else -1,
                pos_weight=-1,
            ),
            rpn_proposal=proposal_cfg,
            rcnn=dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=0.5,
                    neg_iou_thr=0.5,
                    min_pos_iou=0.5,
                    match_low_quality=low_quality,
                    iou_calculator=overlaps[1],
                ),
                sampler=dict(
                    type='RandomSampler',
                    num=64 if small else 512,
                    pos_fraction=0.25,
                    add_gt_as_proposals=True,
                ),
                pos_weight=-1,
            ),
        ),
        test_cfg=dict(rpn=proposal_cfg, rcnn=dict()),
    )


def _extractor(kind: str, small: bool, **roi_layer: Any) -> dict[str, Any]:
    return dict(
        type=kind,
        roi_layer=roi_layer,
        out_channels=64 if small else 256,
        featmap_strides=[4, 8, 16, 32],
        finest_scale=28 if small else 56,
    )
