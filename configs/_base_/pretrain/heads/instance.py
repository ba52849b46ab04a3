"""Instance segmentation: Mask R-CNN, with the settings of the MTP pretraining."""

from copy import deepcopy

from mmdet.models.losses import CrossEntropyLoss, L1Loss
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import BboxOverlaps2D
from mmengine.config import read_base

from mtp.models.tasks import (
    DeltaXYWHCoder,
    InstanceTask,
    LevelsRoIExtractor,
    MultiDatasetRPNHead,
)

with read_base():
    from .two_stage import two_stage

instance = deepcopy(two_stage)
instance.merge(
    dict(
        type=InstanceTask,
        rpn_head=dict(
            type=MultiDatasetRPNHead,
            bbox_coder=dict(type=DeltaXYWHCoder),
            loss_bbox=dict(type=L1Loss),
        ),
        roi_head=dict(
            bbox_roi_extractor=dict(
                type=LevelsRoIExtractor,
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            ),
            bbox_head=dict(
                bbox_coder=dict(type=DeltaXYWHCoder, target_stds=[0.1, 0.1, 0.2, 0.2]),
                loss_bbox=dict(type=L1Loss),
            ),
            mask_roi_extractor=dict(
                type=LevelsRoIExtractor,
                roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
                out_channels=256,
                featmap_strides=[4, 8, 16, 32],
            ),
            mask_head=dict(
                type=FCNMaskHead,
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                loss_mask=dict(type=CrossEntropyLoss, use_mask=True),
            ),
        ),
        train_cfg=dict(
            rpn=dict(assigner=dict(iou_calculator=dict(type=BboxOverlaps2D)), allowed_border=-1),
            rpn_proposal=dict(max_per_img=1000, nms=dict(iou_threshold=0.7)),
            rcnn=dict(
                assigner=dict(match_low_quality=True, iou_calculator=dict(type=BboxOverlaps2D)),
                mask_size=28,
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(iou_threshold=0.7)),
            rcnn=dict(
                nms=dict(type='nms', iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5
            ),
        ),
    )
)
