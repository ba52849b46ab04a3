"""EuroSAT: RGB, 10 classes; folders `train/<class>`, `val/<class>`."""

from mmengine.config import read_base

from mtp.data import SceneDataset

with read_base():
    from .classifier import *

model.head.num_classes = 10
_data = dict(type=SceneDataset, dataset='eurosat', data_root='data/eurosat')
train_dataloader.dataset.update(_data, data_prefix='train')
val_dataloader.dataset.update(_data, data_prefix='val')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
