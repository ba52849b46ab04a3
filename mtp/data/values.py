"""Values that labels may have: one rule for each, used by all readers."""

import math
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from mtp.files import UnusableFileError

# The largest images of the data sets, of DOTA and WHU, have 807 million pixels.
MAX_PIXELS = 850_000_000
# Far beyond any image; what reads labels in 32-bit integers or floats is exact up to there.
MAX_COORDINATE = 1_000_000


def check_coordinates(values: Iterable[Any], place: str) -> list[float]:
    """Return coordinates as floats.

    Args:
        values: numbers, or texts of numbers, in pixels.
        place: file and line, or file and object, for the message.

    Raises:
        UnusableFileError: a value is no number, not finite, or larger than any image.
    """
    values = list(values)
    fault = find_fault(values)
    if fault is not None:
        raise UnusableFileError(f'{place}: {fault}: correct or remove this object')
    return [float(value) for value in values]


def find_fault(values: Sequence[Any]) -> str | None:
    """Return what is wrong with coordinates, numbers or texts of numbers; None if nothing is."""
    shown = ' '.join(f'{value!s:.20}' for value in values[:8])
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return f'{shown!r} are not all numbers'
    if not all(map(math.isfinite, numbers)):
        return f'{shown!r} are not all finite'
    if max(map(abs, numbers), default=0) > MAX_COORDINATE:
        return f'{shown!r} are not all within {MAX_COORDINATE:,} pixels'
    return None


def check_boxes(annotations: Sequence[dict], path: object) -> None:
    """Check the boxes and the areas of the annotations of a COCO json.

    Args:
        annotations: annotations with an ``id``; they may have no area.
        path: path of the json, for the message.

    Raises:
        UnusableFileError: a box is missing, the numbers of a box or an area are not allowed, or the
            sides of a box are negative.
    """
    try:
        boxes = np.array([annotation['bbox'] for annotation in annotations])
        areas = np.array([annotation.get('area') or 0 for annotation in annotations])
        good = (
            boxes.shape == (len(annotations), 4)
            and areas.ndim == 1
            and boxes.dtype.kind in 'if'
            and areas.dtype.kind in 'if'
            and bool((np.abs(boxes) <= MAX_COORDINATE).all())
            and bool((boxes[:, 2:] >= 0).all())
            and bool((np.abs(areas) < MAX_COORDINATE**2).all())
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        good = False
    if good or not annotations:
        return
    for annotation in annotations:  # find the first that is at fault
        _check_box(annotation, f'{path}, annotation {annotation["id"]}')


def _check_box(annotation: dict, place: str) -> None:
    box, area = annotation.get('bbox'), annotation.get('area')
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise UnusableFileError(
            f'{place}: its bbox is {box!r:.60}, not [x, y, width, height]: correct or remove it'
        )
    check_coordinates(box, place)
    if min(box[2:]) < 0:
        raise UnusableFileError(
            f'{place}: its bbox {box!r:.60}, [x, y, width, height], has a negative side: x and y '
            'are those of the upper left corner. Correct or remove it'
        )
    if area is not None and not (isinstance(area, int | float) and abs(area) < MAX_COORDINATE**2):
        raise UnusableFileError(f'{place}: its area is {area!r:.60}: correct or remove it')


def is_number(value: object) -> bool:
    """Return whether a value of a json is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_size(height: object, width: object, place: str) -> tuple[int, int]:
    """Return the size of an image that a label file gives.

    Args:
        height: height in pixels.
        width: width in pixels.
        place: file and image, for the message.

    Raises:
        UnusableFileError: the sides are no integers from 1 on, or larger than any image.
    """
    if not (type(height) is type(width) is int and min(height, width) > 0):
        raise UnusableFileError(
            f'{place}: height {height!r:.20} and width {width!r:.20} are not integers from 1 on: '
            'give the size of the image in pixels'
        )
    check_pixels(height, width, place)
    return height, width


def check_pixels(height: int, width: int, place: object) -> None:
    """Refuse an image that is larger than any of the data sets.

    Raises:
        UnusableFileError: it has more than ``MAX_PIXELS`` pixels.
    """
    if height * width > MAX_PIXELS:
        raise UnusableFileError(
            f'{place}: {width:,} x {height:,} pixels are more than the {MAX_PIXELS:,} that are '
            'read: cut the image into tiles, or restore the file if it is damaged'
        )


def check_name(name: object, place: str) -> str:
    """Return the name of a file that stands in a label file.

    Args:
        name: path of the file below a folder of the data set.
        place: file and image, or file and line, for the message.

    Raises:
        UnusableFileError: it is no text, or leads out of the folder.
    """
    if isinstance(name, str) and name and '\0' not in name:
        paths = PurePosixPath(name), PureWindowsPath(name)
        if not any('..' in path.parts or path.root or path.drive for path in paths):
            return name
    raise UnusableFileError(
        f'{place}: {name!r:.80} is no name of a file below the folder of the images: names may '
        'hold neither ".." nor begin with "/"'
    )


def check_map_values(values: np.ndarray, path: object) -> None:
    """Refuse a label map whose values do not fit 8 bits, to which it is converted.

    Args:
        values: label map as stored.
        path: path of the label map, for the message.

    Raises:
        UnusableFileError: a value is below 0 or above 255, or no integer.
    """
    if values.dtype == np.uint8 or values.dtype == bool or not values.size:
        return
    low, high = values.min(), values.max()
    if not (0 <= low and high <= 255 and (values.dtype.kind in 'iu' or (values % 1 == 0).all())):
        raise UnusableFileError(
            f'{path} holds the value {low if not 0 <= low else high}: label maps hold integers of '
            '0 to 255. Save it again with 8 bits'
        )
