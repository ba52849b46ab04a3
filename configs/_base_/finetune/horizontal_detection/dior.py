"""DIOR: Faster R-CNN at 800 pixels; `JPEGImages-{trainval,test}/*.jpg`, one JSON per split."""

from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import FasterRCNN
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules import RandomSampler
from mmengine.config import read_base

from mtp.data import DIORDetection

with read_base():
    from ...pretrain.heads.instance import instance
    from .detection import *

# The instance branch of the pretraining, without masks and low-quality matches of RoIs.
_roi_head = instance['roi_head']
model.merge(
    dict(
        type=FasterRCNN,
        backbone=dict(img_size=800, with_cp=True),
        neck=instance['neck'],
        rpn_head=dict(instance['rpn_head'], type=RPNHead),
        roi_head=dict(
            type=StandardRoIHead,
            bbox_roi_extractor=_roi_head['bbox_roi_extractor'],
            bbox_head=dict(_roi_head['bbox_head'], num_classes=20),
        ),
        train_cfg=instance['train_cfg'],
        test_cfg=instance['test_cfg'],
    )
)
model.train_cfg.rcnn.assigner.match_low_quality = False
for _stage in ('rpn', 'rcnn'):
    model.train_cfg[_stage].sampler.type = RandomSampler

train_pipeline[2].update(scale=(800, 800))
test_pipeline[1].update(scale=(800, 800))
total_batch_size = 4
_data = dict(type=DIORDetection, data_root='data/dior')
train_dataloader.dataset.update(
    _data,
    ann_file='DIOR_trainval_coco.json',
    data_prefix=dict(img='JPEGImages-trainval'),
    pipeline=train_pipeline,
)
test_dataloader.dataset.update(
    _data,
    ann_file='DIOR_test_coco.json',
    data_prefix=dict(img='JPEGImages-test'),
    pipeline=test_pipeline,
)
val_dataloader = test_dataloader
val_evaluator = test_evaluator
