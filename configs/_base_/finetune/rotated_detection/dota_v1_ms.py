"""DOTA-V1.0, multi-scale as in the paper: `prepare.py dota_v1 --multi-scale`."""

from mmengine.config import read_base

with read_base():
    from .dota_v1 import *

for _loader in (train_dataloader, test_dataloader):
    _loader.dataset.data_root = 'data/dota_v1_ms'
