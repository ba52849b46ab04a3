"""Plain ViT-B with full attention in every block, for each task: started from MAE."""

from mmengine.config import read_base

with read_base():
    from .vit_b_rvsa import *

for _part in (classifier, segmentor, detector, change_detector):
    _part['backbone'].update(name='vit_b', init_cfg=dict(type='Pretrained', checkpoint='mae'))
