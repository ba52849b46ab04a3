"""Plain ViT-L with full attention in every block, for each task: started from MAE.

The paper uses it on SpaceNet.
"""

from mmengine.config import read_base

with read_base():
    from .vit_l_rvsa import *

for _part in (classifier, segmentor, detector, change_detector):
    _part['backbone'].update(name='vit_l', init_cfg=dict(type='Pretrained', checkpoint='mae'))
