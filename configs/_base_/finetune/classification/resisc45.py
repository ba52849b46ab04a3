"""NWPU-RESISC45: 45 classes, 20 % for training; 200 epochs. Lists of images in `mtp/`."""
from mmengine.config import read_base

from mtp.data import SceneDataset

with read_base():
    from .classifier import *

model.head.num_classes = 45
train_cfg.update(max_epochs=200, val_interval=40)
param_scheduler[1].update(T_max=195)

_data = dict(type=SceneDataset, data_root='data/resisc45', data_prefix='all_img', classes=[
    'airplane', 'airport', 'baseball_diamond', 'basketball_court', 'beach', 'bridge',
    'chaparral', 'church', 'circular_farmland', 'cloud', 'commercial_area',
    'dense_residential', 'desert', 'forest', 'freeway', 'golf_course', 'ground_track_field',
    'harbor', 'industrial_area', 'intersection', 'island', 'lake', 'meadow',
    'medium_residential', 'mobile_home_park', 'mountain', 'overpass', 'palace',
    'parking_lot', 'railway', 'railway_station', 'rectangular_farmland', 'river',
    'roundabout', 'runway', 'sea_ice', 'ship', 'snowberg', 'sparse_residential', 'stadium',
    'storage_tank', 'tennis_court', 'terrace', 'thermal_power_station', 'wetland'])
train_dataloader.dataset.update(_data, ann_file='mtp/train_labels_28_mtp.txt')
val_dataloader.dataset.update(_data, ann_file='mtp/valid_labels_28_mtp.txt')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
