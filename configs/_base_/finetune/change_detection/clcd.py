"""CLCD with the recipe of LEVIR-CD, since the paper gives none."""

from mmengine.config import read_base

with read_base():
    from .levir import *

for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader.dataset.update(data_root='data/clcd', dataset='clcd')
