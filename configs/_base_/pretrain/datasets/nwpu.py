"""NWPU VHR-10 at 256 pixels, made multi-task by ``tools/data/coco_to_samrs.py``."""

from mmengine.config import read_base

from mtp.data import SAMRSDataset

with read_base():
    from .samrs import *

num_classes = dict(nwpu=dict(num_classes=10))

train_pipeline[0].update(size=256, ratio_range=(0.75, 1.5))
test_pipeline[1].update(scale=(256, 256))
_data = dict(
    type=SAMRSDataset,
    subset='sota',
    name='nwpu',
    data_root='data/nwpu',
    classes=(
        'airplane',
        'ship',
        'storage_tank',
        'baseball_diamond',
        'tennis_court',
        'basketball_court',
        'ground_track_field',
        'harbor',
        'bridge',
        'vehicle',
    ),
)
train_dataloader.merge(
    dict(
        num_workers=1,
        pin_memory=False,
        dataset=dict(datasets=[dict(_data, pipeline=train_pipeline)]),
    )
)
val_dataloader.merge(
    dict(
        batch_size=4,
        num_workers=1,
        dataset=dict(datasets=[dict(_data, split='valid', test_mode=True, pipeline=test_pipeline)]),
    )
)
test_dataloader = val_dataloader
