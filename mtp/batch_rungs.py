"""Sizes that the objects of a batch are padded to: six joint ones, so that few shapes occur.

Each shape of a training step is compiled, and captured as CUDA graphs, once. Padding by powers of
two in each of the sizes alone would make hundreds of shapes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Per image on each rung: slots of objects in an image; objects, mean over the images; pixels of
# their masks, mean over the images and as a share of an image.
_RUNGS = (
    (16, 8, 1 / 4),
    (32, 16, 1 / 2),
    (64, 32, 1),
    (128, 64, 3 / 2),
    (256, 128, 2),
    (512, 256, 4),
)


@dataclass(frozen=True)
class Rung:
    """Sizes of a batch of B images.

    Attributes:
        slots: slots for the objects of an image.
        objects: slots for the objects of all images, where they are stored one after the other.
        pixels: pixels of the masks of all objects, each in its own box.
    """

    slots: int
    objects: int
    pixels: int


def lowest_rung(counts: Sequence[int], pixels: int, shape: tuple[int, int]) -> Rung:
    """Return the lowest rung that holds a batch; beyond the highest, powers of two.

    Args:
        counts: number of objects of each image.
        pixels: number of mask pixels of all objects.
        shape: height and width of the images in pixels.
    """
    images, area = len(counts), math.prod(shape)
    most, total = max(counts), sum(counts)
    for slots, objects, share in _RUNGS:
        rung = Rung(slots, images * objects, math.ceil(images * area * share))
        if most <= rung.slots and total <= rung.objects and pixels <= rung.pixels:
            return rung
    return Rung(*(1 << max(0, size - 1).bit_length() for size in (most, total, pixels)))
