"""Sizes that the objects of a batch are padded to: six joint ones, so that few shapes occur.

Each shape of a training step is compiled, and captured as CUDA graphs, once. Padding by powers of
two in each of the sizes alone would make hundreds of shapes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mtp.mask_quota import MOST, mask_quota

# Per image on each rung: slots of objects in an image; objects, mean over the images; pixels of
# their masks, mean over the images and as a share of an image; slots of the mask head, likewise.
_RUNGS = (
    (16, 3, 1 / 4, 24),
    (32, 6, 1 / 2, 48),
    (64, 12, 1, 80),
    (128, 32, 3 / 2, MOST),
    (256, 96, 2, MOST),
    (512, 256, 4, MOST),
)


@dataclass(frozen=True)
class Rung:
    """Sizes of a batch of B images.

    Attributes:
        slots: slots for the objects of an image.
        objects: slots for the objects of all images, where they are stored one after the other.
        pixels: pixels of the masks of all objects, each in its own box.
        masks: slots of the mask head for all images.
    """

    slots: int
    objects: int
    pixels: int
    masks: int


def lowest_rung(counts: Sequence[int], pixels: int, shape: tuple[int, int]) -> Rung:
    """Return the lowest rung that holds a batch; beyond the highest, powers of two.

    Args:
        counts: number of objects of each image.
        pixels: number of mask pixels of all objects.
        shape: height and width of the images in pixels.
    """
    images, area = len(counts), math.prod(shape)
    most, total, quotas = max(counts), sum(counts), sum(map(mask_quota, counts))
    for slots, objects, share, masks in _RUNGS:
        pixels_held = math.ceil(images * area * share)
        rung = Rung(slots, images * objects, pixels_held, images * masks)
        if (
            most <= rung.slots
            and total <= rung.objects
            and pixels <= rung.pixels
            and quotas <= rung.masks
        ):
            return rung
    return Rung(_power(most), _power(total), _power(pixels), images * MOST)


def _power(size: int) -> int:
    """Return the lowest power of two that is not less."""
    return 1 << max(0, size - 1).bit_length()
