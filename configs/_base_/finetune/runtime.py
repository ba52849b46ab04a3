"""How a finetuning run is logged, saved and seeded.

Each task adds its library's `default_scope`, and `total_batch_size`: the images of a step, which
tools/train.py shares out among the processes.
"""

from mmengine.config import read_base
from mmengine.runner import TestLoop, ValLoop

with read_base():
    from ..common import *

val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
