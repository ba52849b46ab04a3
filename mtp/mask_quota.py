"""Numbers of positives that the mask head computes, from numbers of objects alone.

The host knows the objects of a batch before the step, so no wait for the device is needed to choose
the shapes of the mask head. An image's quota depends on its own objects, not on its batch: it is
the same for any number of processes. docs/benchmarks/step_2026-11-29.md tells how it was chosen.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

# Positives of an image with objects: some, and some for each object; fewer for objects beyond FEW,
# since the boxes of crowded objects suppress each other.
EXTRA, PER_OBJECT = 4, 7
FEW, PER_FURTHER_OBJECT = 8, 4
# Shares of the slots that a batch would need if each image had as many positives as its sampler
# draws at most. A batch takes the lowest that holds its quotas, so that few shapes occur.
LADDER = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)

Count = TypeVar('Count', int, Tensor)


def mask_quota(objects: Count) -> Count:
    """Return the largest number of an image's positives whose masks are trained.

    Args:
        objects: number of objects of the image, or int64 tensor of such numbers.
    """
    further = (objects - FEW) * (objects > FEW)
    return (
        EXTRA * (objects > 0) + PER_OBJECT * objects - (PER_OBJECT - PER_FURTHER_OBJECT) * further
    )


def mask_capacity(counts: Sequence[int], most: int) -> int:
    """Return the number of mask slots of a batch: its quotas, rounded up to a rung of the ladder.

    Args:
        counts: number of objects of each image; 0 for images without masks.
        most: largest number of positives that an image's sampler draws.
    """
    needed = sum(min(mask_quota(count), most) for count in counts)
    rungs = (math.ceil(share * most * len(counts)) for share in LADDER)
    return next(rung for rung in rungs if rung >= needed)
