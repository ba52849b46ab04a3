"""DIOR-R at 800 pixels: trained on train and val, evaluated by VOC07 mAP on test."""

from mmengine.config import read_base
from mmengine.dataset import ConcatDataset

from mtp.data import BoxFilesDetection
from mtp.evaluation import RotatedMetric

with read_base():
    from .oriented_rcnn import *

model.merge(dict(backbone=dict(img_size=800), roi_head=dict(bbox_head=dict(num_classes=20))))

train_pipeline[3].update(scale=(800, 800))
val_pipeline[1].update(scale=(800, 800))
_data = dict(
    type=BoxFilesDetection,
    format='dior_r',
    dataset='dior_r',
    data_root='data/dior_r',
    ann_file='Annotations/Oriented Bounding Boxes',
)
_train = dict(
    _data,
    data_prefix=dict(img_path='JPEGImages-trainval'),
    filter_cfg=dict(filter_empty_gt=True),
    pipeline=train_pipeline,
)
train_dataloader.dataset = dict(
    type=ConcatDataset,
    datasets=[
        dict(_train, image_set='ImageSets/Main/train.txt'),
        dict(_train, image_set='ImageSets/Main/val.txt'),
    ],
)
test_dataloader.dataset.update(
    _data,
    data_prefix=dict(img_path='JPEGImages-test'),
    image_set='ImageSets/Main/test.txt',
    pipeline=val_pipeline,
)
test_evaluator = dict(type=RotatedMetric, eval_mode='11points')
val_dataloader = test_dataloader
val_evaluator = test_evaluator
