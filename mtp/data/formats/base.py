"""Record of a labelled box, and the choice of the boxes that are used."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mtp.data.box_rules import find_unusable
from mtp.data.class_names import ClassNames
from mtp.data.tally import Tally

Size = tuple[int, int]  # height and width of an image in pixels, as training sees it


@dataclass(frozen=True)
class Box:
    """Labelled box of an object.

    Attributes:
        place: file and line of the label.
        name: name of the class; its index, as text, in formats that number the classes.
        corners: corners of the box, ``(4, 2)``, x and y in pixels.
        difficulty: 0, or more for objects that are hard to recognise. Training and evaluation take
            them like all others.
    """

    place: str
    name: str
    corners: np.ndarray
    difficulty: int = 0


def usable(
    boxes: Iterable[Box], names: ClassNames, size: Size | None, rotated: bool, tally: Tally
) -> list[tuple[Box, int]]:
    """Return the boxes that are used, with their labels from 0.

    A box has the class's own name in the result, however the label file spells it.

    Args:
        boxes: boxes of an image.
        names: classes of the data set.
        size: height and width of the image in pixels; None if they are unknown.
        rotated: whether the boxes are used as rotated ones.
        tally: counts, which get the boxes that are left out.

    Raises:
        UnusableFileError: a class is unknown, or a label file cannot be read.
    """
    boxes = list(boxes)
    labels = [names.label(box.name, box.place) for box in boxes]
    corners = np.array([box.corners for box in boxes]).reshape(-1, 4, 2)
    result = []
    for box, label, reason in zip(boxes, labels, find_unusable(corners, size, rotated)):
        if reason is None:
            result.append((replace(box, name=names.classes[label]), label))
        else:
            tally.leave_out(reason, box.place)
    return result
