"""GVLM: the paper gives no recipe; that of LEVIR-CD."""

from mmengine.config import read_base

with read_base():
    from .levir import *

for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader.dataset.data_root = 'data/gvlm'
