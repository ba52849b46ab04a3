"""Data sets cut into tiles, `{trainval,test}/images/` and `trainval/annfiles/*.txt`.

Only the benchmark's server has the labels of the test split: predictions of tiles are merged into
a submission.
"""

from mmengine.config import read_base

from mtp.data import BoxFilesDetection

with read_base():
    from .oriented_rcnn import *

# The config of a data set adds name, root and pipelines.
train_dataloader.dataset.update(
    type=BoxFilesDetection,
    format='dota',
    ann_file='trainval/annfiles',
    data_prefix=dict(img_path='trainval/images'),
)
test_dataloader.dataset.update(
    type=BoxFilesDetection, format='dota', data_prefix=dict(img_path='test/images')
)
val_cfg = None  # no labels are left for validation
