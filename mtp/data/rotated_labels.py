"""Reading of the rotated boxes of an image for pretraining, from DOTA text or DIOR-R xml."""

from collections.abc import Iterable
from pathlib import Path

from mtp.data.class_names import ClassNames
from mtp.data.formats import FORMATS, Size, usable
from mtp.data.tally import Tally


def read_rotated(
    path: str | Path,
    classes: Iterable[str],
    tally: Tally | None = None,
    size: Size | None = None,
) -> list[dict]:
    """Read the rotated boxes of an image, from DOTA text or DIOR-R xml.

    Args:
        path: label file, ``.txt`` or ``.xml``.
        classes: class names in label order.
        tally: counts, which get the boxes that are left out: those without area or outside of
            their image.
        size: height and width of the image in pixels; None if they are unknown.

    Returns:
        list[dict]: ``bbox`` (8 numbers, corners in pixels), ``bbox_label`` and ``place`` (file and
        line) of each box.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: a class is not in ``classes``, or a line cannot be read; the message says
            where.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'no rotated boxes at {path}: restore the file, or leave '
            "'rotated' out of the data set's tasks"
        )
    tally = Tally() if tally is None else tally
    names = ClassNames(tuple(classes), tally)
    boxes = FORMATS['dior_r' if path.suffix == '.xml' else 'dota'].read(path, size)
    return [
        dict(bbox=box.corners.reshape(-1).tolist(), bbox_label=label, place=box.place)
        for box, label in usable(boxes, names, size, True, tally)
    ]
