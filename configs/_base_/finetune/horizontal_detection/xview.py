"""xView: RetinaNet on tiles of 416 pixels; `{train,val}/images/*.png`, one JSON per split."""

from mmdet.models.dense_heads import RetinaHead
from mmdet.models.detectors import RetinaNet
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet.models.necks import FPN
from mmdet.models.task_modules import AnchorGenerator, MaxIoUAssigner, PseudoSampler
from mmengine.config import read_base

from mtp.data import XViewDetection
from mtp.models.tasks import DeltaXYWHCoder

with read_base():
    from .detection import *

model.merge(
    dict(
        type=RetinaNet,
        backbone=dict(img_size=416),
        neck=dict(
            type=FPN, out_channels=256, start_level=1, add_extra_convs='on_input', num_outs=5
        ),
        bbox_head=dict(
            type=RetinaHead,
            num_classes=60,
            in_channels=256,
            stacked_convs=4,
            feat_channels=256,
            anchor_generator=dict(
                type=AnchorGenerator,
                octave_base_scale=4,
                scales_per_octave=3,
                ratios=[0.5, 1.0, 2.0],
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=dict(type=DeltaXYWHCoder),
            loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25),
            loss_bbox=dict(type=L1Loss),
        ),
        train_cfg=dict(
            assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            sampler=dict(type=PseudoSampler),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(
            nms_pre=1000,
            min_bbox_size=0,
            score_thr=0.05,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=100,
        ),
    )
)

train_pipeline[2].update(scale=(416, 416))
test_pipeline[1].update(scale=(416, 416))
total_batch_size = 8
_data = dict(type=XViewDetection, data_root='data/xview')
train_dataloader.dataset.update(
    _data,
    ann_file='xview_train_coco_format.json',
    data_prefix=dict(img='train/images'),
    pipeline=train_pipeline,
)
test_dataloader.dataset.update(
    _data,
    ann_file='xview_val_coco_format.json',
    data_prefix=dict(img='val/images'),
    pipeline=test_pipeline,
)
val_dataloader = test_dataloader
val_evaluator = test_evaluator
