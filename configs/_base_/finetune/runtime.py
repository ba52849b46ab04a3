"""Logging, checkpoints and seeds of a finetuning run.

Each task adds the `default_scope` of its library, and `total_batch_size`: the number of images per
step, which tools/train.py divides among the processes.
"""

from mmengine.config import read_base
from mmengine.runner import TestLoop, ValLoop

from mtp.engine import CheckDataHook

with read_base():
    from ..common import *

default_hooks.check_data = dict(type=CheckDataHook)

val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
