"""Rotated detection: Oriented R-CNN (le90), with the settings of the MTP pretraining."""

from copy import deepcopy

from mmdet.models.losses import SmoothL1Loss
from mmengine.config import read_base
from mmrotate.models.task_modules import RBbox2HBboxOverlaps2D, RBboxOverlaps2D

from mtp.models.tasks import (
    DeltaXYWHTRCoder,
    LevelsRotatedRoIExtractor,
    MidpointCoder,
    MultiDatasetOrientedRPNHead,
    RotatedTask,
)

with read_base():
    from .two_stage import two_stage

rotated = deepcopy(two_stage)
rotated.merge(
    dict(
        type=RotatedTask,
        rpn_head=dict(
            type=MultiDatasetOrientedRPNHead,
            anchor_generator=dict(use_box_type=True),
            bbox_coder=dict(
                type=MidpointCoder,
                angle_version='le90',
                target_means=[0.0] * 6,
                target_stds=[1.0, 1.0, 1.0, 1.0, 0.5, 0.5],
            ),
            loss_bbox=dict(type=SmoothL1Loss, beta=1 / 9),
        ),
        roi_head=dict(
            bbox_roi_extractor=dict(
                type=LevelsRotatedRoIExtractor,
                roi_layer=dict(
                    type='RoIAlignRotated', output_size=7, sampling_ratio=2, clockwise=True
                ),
            ),
            bbox_head=dict(
                predict_box_type='rbox',
                bbox_coder=dict(
                    type=DeltaXYWHTRCoder,
                    angle_version='le90',
                    edge_swap=True,
                    proj_xy=True,
                    target_means=[0.0] * 5,
                    target_stds=[0.1, 0.1, 0.2, 0.2, 0.1],
                ),
                reg_class_agnostic=True,
                loss_bbox=dict(type=SmoothL1Loss, beta=1.0),
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=dict(iou_calculator=dict(type=RBbox2HBboxOverlaps2D)), allowed_border=0
            ),
            rpn_proposal=dict(max_per_img=2000, nms=dict(iou_threshold=0.8)),
            rcnn=dict(
                assigner=dict(match_low_quality=False, iou_calculator=dict(type=RBboxOverlaps2D))
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=2000, max_per_img=2000, nms=dict(iou_threshold=0.8)),
            rcnn=dict(
                nms=dict(type='nms_rotated', iou_threshold=0.1), max_per_img=2000, min_bbox_size=0
            ),
        ),
    )
)
