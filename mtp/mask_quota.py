"""Largest number of positives of an image that the mask head computes, from its number of objects.

The host knows the objects of a batch before the step, so no wait for the device is needed to choose
the shapes of the mask head (:mod:`mtp.batch_rungs`). An image's quota depends on its own objects,
not on its batch: it is the same for any number of processes. docs/benchmarks/step_2026-11-29.md
tells how it was chosen.
"""

from typing import TypeVar

from torch import Tensor

# Positives of an image with objects: some, and some for each object; fewer for objects beyond FEW,
# since the boxes of crowded objects suppress each other.
EXTRA, PER_OBJECT = 4, 7
FEW, PER_FURTHER_OBJECT = 8, 4
MOST = 128  # as many as the paper's sampler draws

Count = TypeVar('Count', int, Tensor)


def mask_quota(objects: Count) -> Count:
    """Return the largest number of an image's positives whose masks are trained, at most MOST.

    Args:
        objects: number of objects of the image, or int64 tensor of such numbers.
    """
    further = (objects - FEW) * (objects > FEW)
    quota = (
        EXTRA * (objects > 0) + PER_OBJECT * objects - (PER_OBJECT - PER_FURTHER_OBJECT) * further
    )
    return quota.clamp(max=MOST) if isinstance(quota, Tensor) else min(quota, MOST)
