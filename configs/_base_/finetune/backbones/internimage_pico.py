"""InternImage-pico, for trials on a CPU: it starts untrained."""

from mmengine.config import read_base

with read_base():
    from .internimage_xl import *

_channels = [16, 32, 64, 128]

for _part in (classifier, segmentor, detector, change_detector):
    _part['backbone'].update(name='internimage_pico', drop_path_rate=0.0, init_cfg=None)
classifier['head']['in_channels'] = _channels[-1]
segmentor['decode_head']['in_channels'] = change_detector['decode_head']['in_channels'] = _channels
detector['neck']['in_channels'] = _channels

optimization['optimizer']['lr'] = 5e-4
