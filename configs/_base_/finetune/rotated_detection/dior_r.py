"""DIOR-R at 800 pixels: trained on train and val, evaluated by VOC07 mAP on test."""

from mmengine.config import read_base
from mmengine.dataset import ConcatDataset
from mmrotate.datasets import DIORDataset

from mtp.evaluation import RotatedMetric

with read_base():
    from .oriented_rcnn import *

model.merge(dict(backbone=dict(img_size=800), roi_head=dict(bbox_head=dict(num_classes=20))))

train_pipeline[3].update(scale=(800, 800))
val_pipeline[1].update(scale=(800, 800))
_train = dict(
    type=DIORDataset,
    data_root='data/dior_r',
    data_prefix=dict(img_path='JPEGImages-trainval'),
    filter_cfg=dict(filter_empty_gt=True),
    pipeline=train_pipeline,
)
train_dataloader.dataset = dict(
    type=ConcatDataset,
    datasets=[
        dict(_train, ann_file='ImageSets/Main/train.txt'),
        dict(_train, ann_file='ImageSets/Main/val.txt'),
    ],
)
test_dataloader.dataset.update(
    type=DIORDataset,
    data_root='data/dior_r',
    data_prefix=dict(img_path='JPEGImages-test'),
    ann_file='ImageSets/Main/test.txt',
    pipeline=val_pipeline,
)
test_evaluator = dict(type=RotatedMetric, eval_mode='11points')
val_dataloader = test_dataloader
val_evaluator = test_evaluator
