"""Common settings of Mask R-CNN and Oriented R-CNN in the MTP pretraining."""

from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.task_modules import AnchorGenerator
from torch.nn import Linear

from mtp.models import LeanFPN
from mtp.models.tasks import BatchedMaxIoUAssigner, SeededRandomSampler, SharedRoIHead

two_stage = dict(
    neck=dict(type=LeanFPN, out_channels=256, num_outs=5),
    rpn_head=dict(
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(
            type=AnchorGenerator, scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True),
    ),
    roi_head=dict(
        type=SharedRoIHead,
        bbox_roi_extractor=dict(out_channels=256, featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            type=Shared2FCBBoxHead,
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            cls_predictor_cfg=dict(type=Linear),
            reg_predictor_cfg=dict(type=Linear),
            loss_cls=dict(type=CrossEntropyLoss),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type=BatchedMaxIoUAssigner,
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
            ),
            sampler=dict(
                type=SeededRandomSampler, num=256, pos_fraction=0.5, add_gt_as_proposals=False
            ),
            pos_weight=-1,
        ),
        rpn_proposal=dict(nms_pre=2000, nms=dict(type='nms'), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type=BatchedMaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5
            ),
            sampler=dict(
                type=SeededRandomSampler, num=512, pos_fraction=0.25, add_gt_as_proposals=True
            ),
            pos_weight=-1,
        ),
    ),
    test_cfg=dict(rpn=dict(nms=dict(type='nms'), min_bbox_size=0), rcnn=dict(score_thr=0.05)),
)
