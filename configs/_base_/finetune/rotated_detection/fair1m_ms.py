"""FAIR1M-2.0, multi-scale: `prepare.py fair1m --multi-scale`."""

from mmengine.config import read_base

with read_base():
    from .fair1m import *

for _loader in (train_dataloader, test_dataloader):
    _loader.dataset.data_root = 'data/fair1m_ms'
