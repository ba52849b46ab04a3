"""Rotated detection: Oriented R-CNN (le90), as in the rotated branch of the pretraining."""

from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmdet.models.detectors import FasterRCNN
from mmdet.models.necks import FPN
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules import RandomSampler
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmrotate.datasets.transforms import ConvertBoxType
from mmrotate.models.dense_heads import OrientedRPNHead

from mtp.data import LoadImage
from mtp.models import BandDetDataPreprocessor

with read_base():
    from ...pretrain.heads.rotated import rotated
    from ..runtime import *
    from ..schedules.twelve_epochs import *

default_scope = 'mmrotate'

_roi_head = rotated['roi_head']
model = dict(
    type=FasterRCNN,
    data_preprocessor=dict(
        type=BandDetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        boxtype2tensor=False,
    ),
    backbone=dict(with_cp=True),
    neck=dict(rotated['neck'], type=FPN),
    rpn_head=dict(rotated['rpn_head'], type=OrientedRPNHead),
    roi_head=dict(
        type=StandardRoIHead,
        bbox_roi_extractor=_roi_head['bbox_roi_extractor'],
        bbox_head=_roi_head['bbox_head'],
    ),
    train_cfg=rotated['train_cfg'],
    test_cfg=rotated['test_cfg'],
)
for _stage in ('rpn', 'rcnn'):
    model['train_cfg'][_stage]['sampler'].update(type=RandomSampler)

# The config of a data set sets the scale of Resize.
train_pipeline = [
    dict(type=LoadImage),
    dict(type=LoadAnnotations, with_bbox=True, box_type='qbox'),
    dict(type=ConvertBoxType, box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type=Resize, keep_ratio=True),
    dict(type=RandomFlip, prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type=PackDetInputs),
]
_meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
# Load labels after the resize: metrics compare at the original size.
val_pipeline = [
    dict(type=LoadImage),
    dict(type=Resize, keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True, box_type='qbox'),
    dict(type=ConvertBoxType, box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type=PackDetInputs, meta_keys=_meta_keys),
]
test_pipeline = [
    dict(type=LoadImage),
    dict(type=Resize, keep_ratio=True),
    dict(type=PackDetInputs, meta_keys=_meta_keys),
]

total_batch_size = 4
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(filter_cfg=dict(filter_empty_gt=True)),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(test_mode=True),
)
