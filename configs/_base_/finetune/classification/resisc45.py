"""NWPU-RESISC45: 45 classes, 20 % for training; 200 epochs. Image lists in `mtp/`."""

from mmengine.config import read_base

from mtp.data import SceneDataset

with read_base():
    from .classifier import *

model.head.num_classes = 45
train_cfg.update(max_epochs=200, val_interval=40)
param_scheduler[1].update(T_max=195)

_data = dict(
    type=SceneDataset, dataset='resisc45', data_root='data/resisc45', data_prefix='all_img'
)
train_dataloader.dataset.update(_data, ann_file='mtp/train_labels_28_mtp.txt')
val_dataloader.dataset.update(_data, ann_file='mtp/valid_labels_28_mtp.txt')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
