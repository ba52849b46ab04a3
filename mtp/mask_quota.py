"""Numbers of positives that the mask head computes, from numbers of objects alone.

The host knows the objects of a batch before the step, so no wait for the device is needed to choose
the shapes of the mask head. An image's quota depends on its own objects, not on the batch: it is
the same for any number of processes.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

PER_OBJECT, EXTRA = 4, 4
# Shares of the slots that a batch would need if each image had as many positives as its sampler
# allows. A batch takes the lowest that holds its quotas; each is a shape of the mask head, which
# cuDNN tries its algorithms for.
LADDER = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 1 / 2, 1)

Count = TypeVar('Count', int, Tensor)


def mask_quota(objects: Count) -> Count:
    """Return the largest number of an image's positives whose masks are trained.

    Args:
        objects: number of objects of the image, or int64 tensor of such numbers.
    """
    return PER_OBJECT * objects + EXTRA * (objects > 0)


def mask_capacity(counts: Sequence[int], most: int) -> int:
    """Return the number of mask slots of a batch: its quotas, rounded up to a rung of the ladder.

    Args:
        counts: number of objects of each image; 0 for images without masks.
        most: largest number of positives that an image's sampler draws.
    """
    needed = sum(min(mask_quota(count), most) for count in counts)
    rungs = (math.ceil(share * most * len(counts)) for share in LADDER)
    return next(rung for rung in rungs if rung >= needed)
