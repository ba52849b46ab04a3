"""DOTA-V2.0, multi-scale: `prepare.py dota_v2 --multi-scale`."""

from mmengine.config import read_base

with read_base():
    from .dota_v2 import *

for _loader in (train_dataloader, test_dataloader):
    _loader.dataset.data_root = 'data/dota_v2_ms'
