"""Reading of the rotated boxes of an image, from DOTA text or DIOR-R xml."""

from collections.abc import Iterator
from pathlib import Path

from mtp.data.label_files import parse_xml, read_lines
from mtp.data.values import check_coordinates
from mtp.files import UnusableFileError

CORNER_TAGS = (
    'x_left_top',
    'y_left_top',
    'x_right_top',
    'y_right_top',
    'x_right_bottom',
    'y_right_bottom',
    'x_left_bottom',
    'y_left_bottom',
)


def read_rotated(path: str | Path, labels: dict[str, int]) -> list[dict]:
    """Read the rotated boxes of an image, from DOTA text or DIOR-R xml.

    Boxes with two equal adjacent corners are left out: they have no area.

    Args:
        path: label file, ``.txt`` or ``.xml``.
        labels: class name -> label.

    Returns:
        list[dict]: ``bbox`` (8 numbers, corners in pixels) and ``bbox_label`` of each box.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: a class is not in ``labels``, or a line cannot be read; the message says
            where.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'no rotated boxes at {path}: restore the file, or leave '
            "'rotated' out of the data set's tasks"
        )
    read = _read_xml if path.suffix == '.xml' else _read_dota
    boxes = []
    for place, name, corners in read(path):
        if name not in labels:
            raise UnusableFileError(f'{place}: unknown class {name!r}; known are {list(labels)}')
        points = [corners[i : i + 2] for i in range(0, 8, 2)]
        if all(points[i] != points[i - 1] for i in range(4)):
            boxes.append(dict(bbox=corners, bbox_label=labels[name]))
    return boxes


def _read_dota(path: Path) -> Iterator[tuple[str, str, list[float]]]:
    for place, line in read_lines(path):
        fields = line.split()
        if not fields or fields[0].startswith(('imagesource', 'gsd')):
            continue
        if len(fields) < 9:
            raise UnusableFileError(
                f'{place}: {line!r} is not of the form "x1 y1 x2 y2 x3 y3 x4 y4 class difficulty"'
            )
        yield place, fields[8], check_coordinates(fields[:8], place)


def _read_xml(path: Path) -> Iterator[tuple[str, str, list[float]]]:
    for number, obj in enumerate(parse_xml(path).findall('object'), 1):
        place = f'{path}, object {number}'
        name, box = obj.findtext('name'), obj.find('robndbox')
        found = [] if box is None else [box.findtext(tag) for tag in CORNER_TAGS]
        corners = [corner for corner in found if corner is not None]
        if name is None or len(corners) < len(CORNER_TAGS):
            raise UnusableFileError(
                f'{place}: it lacks a name or a corner of robndbox ({", ".join(CORNER_TAGS)})'
            )
        yield place, name.lower(), check_coordinates(corners, place)
