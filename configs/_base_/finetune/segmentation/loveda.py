"""LoveDA: land cover, crops of 512; trained on train and val, tested by the benchmark's server."""

from mmengine.config import read_base
from mmseg.datasets import LoveDADataset
from mmseg.datasets.transforms import PackSegInputs

from mtp.data import LoadImage
from mtp.evaluation import LoveDASubmission

with read_base():
    from .upernet import *

model.merge(
    dict(
        data_preprocessor=dict(size=(512, 512)),
        backbone=dict(img_size=512),
        decode_head=dict(num_classes=7),
        test_cfg=dict(crop_size=(512, 512), stride=(384, 384)),
    )
)

train_pipeline[1].update(num_classes=7)
train_pipeline[2].update(scale=(512, 512))
train_pipeline[3].update(crop_size=(512, 512))
test_pipeline = [dict(type=LoadImage), dict(type=PackSegInputs)]

# The data set maps the label values 0 to ignored, and 1..7 to the classes 0..6.
_data = dict(type=LoveDADataset, data_root='data/loveda')
train_dataloader.dataset.update(
    _data,
    data_prefix=dict(img_path='trainval/images', seg_map_path='trainval/labels'),
    pipeline=train_pipeline,
)
test_dataloader.dataset.update(
    _data, data_prefix=dict(img_path='test/images'), pipeline=test_pipeline
)
test_evaluator = dict(type=LoveDASubmission)
val_cfg = None  # no labels are left for validation
