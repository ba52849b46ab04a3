"""Small copies of each data set, made up, in the true on-disk form that its owner distributes."""
from collections.abc import Callable
from pathlib import Path

from mtp.data.samrs.synthesis import CLASSES, make_samrs
from mtp.data.synthetic import detection, scenes

__all__ = ['CLASSES', 'MAKE', 'make_samrs']

# Name of a downstream data set -> function of the folder to make and a `seed`.
MAKE: dict[str, Callable[..., Path]] = {**detection.MAKE, **scenes.MAKE}
