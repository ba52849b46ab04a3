"""The toy run, of which process 1 is asked once to stop."""

from mmengine.config import read_base

from tests.tools.toy import StopOnce

with read_base():
    from .toy_config import *  # noqa: F403

custom_hooks = [dict(type=StopOnce)]
