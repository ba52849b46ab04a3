"""OSCD, RGB: 100 epochs; tiles of 96 pixels, resized to 224. The test set is also used as val."""

from mmengine.config import read_base
from mmseg.datasets.transforms import Resize

with read_base():
    from .siamese_unet import *

model.merge(dict(data_preprocessor=dict(size=(224, 224)), backbone=dict(img_size=224)))

_enlarge = dict(type=Resize, scale=(224, 224), keep_ratio=True)
train_dataloader.dataset.pipeline.insert(2, _enlarge)
train_dataloader.dataset.pipeline[4].update(crop_size=(224, 224))
test_dataloader.dataset.pipeline.insert(1, _enlarge)  # the label keeps its original size
for _loader in (train_dataloader, test_dataloader):
    _loader.dataset.update(data_root='data/oscd', dataset='oscd')
val_dataloader = test_dataloader
