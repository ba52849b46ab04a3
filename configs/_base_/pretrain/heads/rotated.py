"""Rotated detection: Oriented R-CNN (le90), with the settings of the MTP pretraining."""
from mmdet.models.losses import CrossEntropyLoss, SmoothL1Loss
from mmdet.models.necks import FPN
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.task_modules import AnchorGenerator
from mmrotate.models.task_modules import RBbox2HBboxOverlaps2D, RBboxOverlaps2D
from torch.nn import Linear

from mtp.models.tasks import (
    BatchedMaxIoUAssigner,
    DeltaXYWHTRCoder,
    LevelsRotatedRoIExtractor,
    MidpointCoder,
    MultiDatasetOrientedRPNHead,
    RotatedTask,
    SeededRandomSampler,
    SharedRoIHead,
)

rotated = dict(
    type=RotatedTask,
    neck=dict(type=FPN, out_channels=256, num_outs=5),
    rpn_head=dict(
        type=MultiDatasetOrientedRPNHead,
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(
            type=AnchorGenerator,
            scales=[8],
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            use_box_type=True),
        bbox_coder=dict(
            type=MidpointCoder,
            angle_version='le90',
            target_means=[0.0] * 6,
            target_stds=[1.0, 1.0, 1.0, 1.0, 0.5, 0.5]),
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True),
        loss_bbox=dict(type=SmoothL1Loss, beta=1 / 9)),
    roi_head=dict(
        type=SharedRoIHead,
        bbox_roi_extractor=dict(
            type=LevelsRotatedRoIExtractor,
            roi_layer=dict(type='RoIAlignRotated', output_size=7, sampling_ratio=2, clockwise=True),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            type=Shared2FCBBoxHead,
            predict_box_type='rbox',
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            bbox_coder=dict(
                type=DeltaXYWHTRCoder,
                angle_version='le90',
                edge_swap=True,
                proj_xy=True,
                target_means=[0.0] * 5,
                target_stds=[0.1, 0.1, 0.2, 0.2, 0.1]),
            reg_class_agnostic=True,
            cls_predictor_cfg=dict(type=Linear),
            reg_predictor_cfg=dict(type=Linear),
            loss_cls=dict(type=CrossEntropyLoss),
            loss_bbox=dict(type=SmoothL1Loss, beta=1.0))),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type=BatchedMaxIoUAssigner,
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                iou_calculator=dict(type=RBbox2HBboxOverlaps2D)),
            sampler=dict(
                type=SeededRandomSampler, num=256, pos_fraction=0.5, add_gt_as_proposals=False),
            allowed_border=0,
            pos_weight=-1),
        rpn_proposal=dict(
            nms_pre=2000,
            max_per_img=2000,
            nms=dict(type='nms', iou_threshold=0.8),
            min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type=BatchedMaxIoUAssigner,
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                iou_calculator=dict(type=RBboxOverlaps2D)),
            sampler=dict(
                type=SeededRandomSampler, num=512, pos_fraction=0.25, add_gt_as_proposals=True),
            pos_weight=-1)),
    test_cfg=dict(
        rpn=dict(
            nms_pre=2000,
            max_per_img=2000,
            nms=dict(type='nms', iou_threshold=0.8),
            min_bbox_size=0),
        rcnn=dict(
            score_thr=0.05,
            nms=dict(type='nms_rotated', iou_threshold=0.1),
            max_per_img=2000,
            min_bbox_size=0)))
