"""InternImage-S for each task: no released encoder is known to mtp, so it starts untrained."""

from mmengine.config import read_base

with read_base():
    from .internimage_xl import *

_channels = [80, 160, 320, 640]

for _part in (classifier, segmentor, detector, change_detector):
    _part['backbone'].update(name='internimage_s', drop_path_rate=0.1, init_cfg=None)
classifier['head']['in_channels'] = _channels[-1]
segmentor['decode_head']['in_channels'] = change_detector['decode_head']['in_channels'] = _channels
detector['neck']['in_channels'] = _channels
