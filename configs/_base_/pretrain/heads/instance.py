"""Instance segmentation: Mask R-CNN, with the settings of the MTP pretraining."""
from mmdet.models.losses import CrossEntropyLoss, L1Loss
from mmdet.models.necks import FPN
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import AnchorGenerator, BboxOverlaps2D
from torch.nn import Linear

from mtp.models.tasks import (
    BatchedMaxIoUAssigner,
    DeltaXYWHCoder,
    InstanceTask,
    LevelsRoIExtractor,
    MultiDatasetRPNHead,
    SeededRandomSampler,
    SharedRoIHead,
)

instance = dict(
    type=InstanceTask,
    neck=dict(type=FPN, out_channels=256, num_outs=5),
    rpn_head=dict(
        type=MultiDatasetRPNHead,
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(
            type=AnchorGenerator, scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type=DeltaXYWHCoder),
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True),
        loss_bbox=dict(type=L1Loss)),
    roi_head=dict(
        type=SharedRoIHead,
        bbox_roi_extractor=dict(
            type=LevelsRoIExtractor,
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            type=Shared2FCBBoxHead,
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            bbox_coder=dict(type=DeltaXYWHCoder, target_stds=[0.1, 0.1, 0.2, 0.2]),
            cls_predictor_cfg=dict(type=Linear),
            reg_predictor_cfg=dict(type=Linear),
            loss_cls=dict(type=CrossEntropyLoss),
            loss_bbox=dict(type=L1Loss)),
        mask_roi_extractor=dict(
            type=LevelsRoIExtractor,
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32]),
        mask_head=dict(
            type=FCNMaskHead,
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            loss_mask=dict(type=CrossEntropyLoss, use_mask=True))),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type=BatchedMaxIoUAssigner,
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                iou_calculator=dict(type=BboxOverlaps2D)),
            sampler=dict(
                type=SeededRandomSampler, num=256, pos_fraction=0.5, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1),
        rpn_proposal=dict(
            nms_pre=2000,
            max_per_img=1000,
            nms=dict(type='nms', iou_threshold=0.7),
            min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type=BatchedMaxIoUAssigner,
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=True,
                iou_calculator=dict(type=BboxOverlaps2D)),
            sampler=dict(
                type=SeededRandomSampler, num=512, pos_fraction=0.25, add_gt_as_proposals=True),
            mask_size=28,
            pos_weight=-1)),
    test_cfg=dict(
        rpn=dict(
            nms_pre=1000,
            max_per_img=1000,
            nms=dict(type='nms', iou_threshold=0.7),
            min_bbox_size=0),
        rcnn=dict(
            score_thr=0.05,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=100,
            mask_thr_binary=0.5)))
