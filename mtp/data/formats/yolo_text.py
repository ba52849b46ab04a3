"""Parsers of YOLO's text: boxes in shares of the image's sides, and classes by their indices.

The image's sides are those of the image as it is shown, rotated by its EXIF orientation.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mtp.data.description import read_names
from mtp.data.formats.base import Box, Size
from mtp.data.label_files import read_lines, read_text
from mtp.data.values import check_coordinates
from mtp.files import UnusableFileError

NAME_FILES = ('data.yaml', 'data.yml', 'classes.txt', 'obj.names')
# A box may exceed its image; coordinates far from it are pixels.
_RANGE = (-1.0, 2.0)
_POLYGON = (-0.5, 1.5)  # corners of a polygon are drawn on the image, or a little beside it
_NUMBERED = re.compile(r'([0-9]{1,9})\s*:\s*(\S.*)')  # an index with its name
_SLACK = 0.001  # of rounding, in shares


def read_yolo(path: Path, size: Size) -> Iterator[Box]:
    """Read horizontal boxes: lines of ``class cx cy width height`` or ``class x1 y1 x2 y2 ...``.

    The box of a polygon is the one around it.

    Args:
        path: label file.
        size: height and width of the image in pixels.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: a line has another form, also that of a pose; the message has file and
            line.
    """
    for place, name, shares in _lines(path):
        if _is_pose(shares):
            raise UnusableFileError(
                f'{place}: it reads as "cx cy width height" with keypoints "x y visibility", which '
                'are not read: keep the first five columns of each line. If it is a polygon, '
                'repeat its first corner at the end'
            )
        if len(shares) == 4:
            centre, extent = shares[:2], shares[2:]
            if (extent < 0).any():
                raise UnusableFileError(
                    f'{place}: its width and height are {extent[0]:g} and {extent[1]:g}: correct '
                    'or remove it'
                )
            low, high = centre - extent / 2, centre + extent / 2
        elif len(shares) >= 6 and len(shares) % 2 == 0:
            if ((shares < _POLYGON[0]) | (shares > _POLYGON[1])).any():
                raise UnusableFileError(
                    f'{place}: it has numbers outside 0 to 1, so that it is no polygon in shares '
                    "of the image's width and height: correct or remove it"
                )
            points = shares.reshape(-1, 2)
            low, high = points.min(0), points.max(0)
        else:
            raise UnusableFileError(
                f'{place}: it has {len(shares)} numbers after the class, not "cx cy width height" '
                'nor the corners of a polygon: correct or remove it'
            )
        corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
        yield Box(place, name, corners * size[::-1])


def read_yolo_obb(path: Path, size: Size) -> Iterator[Box]:
    """Read rotated boxes: lines of ``class x1 y1 x2 y2 x3 y3 x4 y4``.

    Args:
        path: label file.
        size: height and width of the image in pixels.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: a line has another form; the message has file and line.
    """
    for place, name, shares in _lines(path):
        if len(shares) != 8:
            raise UnusableFileError(
                f'{place}: it has {len(shares)} numbers after the class, not '
                '"x1 y1 x2 y2 x3 y3 x4 y4": correct it, or read the files as format="yolo"'
            )
        yield Box(place, name, shares.reshape(4, 2) * size[::-1])


def _is_pose(shares: np.ndarray) -> bool:
    """Return whether numbers are a box with keypoints, each with a visibility of 0, 1 or 2.

    A polygon has such numbers at every third place only by chance, where it meets the border; its
    first two corners are hardly a box within the image then.
    """
    visibility = shares[6::3]
    if len(shares) < 7 or len(shares) % 3 != 1 or not np.isin(visibility, (0, 1, 2)).all():
        return False
    centre, half = shares[:2], shares[2:4] / 2
    inside = (centre - half >= -_SLACK).all() and (centre + half <= 1 + _SLACK).all()
    return bool(inside or (visibility == 2).any())


def _lines(path: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield place, index of the class, and coordinates of each object."""
    for place, line in read_lines(path):
        if not line.strip():
            continue
        index, *texts = line.split()
        if not re.fullmatch(r'[0-9]{1,9}(\.0+)?', index):
            raise UnusableFileError(
                f'{place}: it begins with {index!r:.40}, not with the index of a class, from 0: '
                'correct or remove it'
            )
        shares = np.array(check_coordinates(texts, place))
        if ((shares < _RANGE[0]) | (shares > _RANGE[1])).any():
            raise UnusableFileError(
                f'{place}: {line!r:.120} has coordinates far outside 0 to 1: give shares of the '
                "image's width and height, not pixels"
            )
        yield place, str(int(float(index))), shares


def name_classes(boxes: Iterable[Box], names: Sequence[str]) -> Iterator[Box]:
    """Yield boxes with the names of their classes in place of the indices.

    Args:
        boxes: boxes whose ``name`` is an index.
        names: names of the classes, by index.

    Raises:
        UnusableFileError: there is no class of that index.
    """
    for box in boxes:
        if int(box.name) >= len(names):
            raise UnusableFileError(
                f'{box.place}: there is no class {box.name}; the {len(names)} classes, from 0, are '
                f'{", ".join(names)}: correct the label, or add the class'
            )
        yield replace(box, name=names[int(box.name)])


def find_names(folders: Iterable[Path]) -> tuple[Path, tuple[str, ...]] | None:
    """Return the file that names the classes, and the names by index; None if there is none.

    Args:
        folders: folders in which the file may be.

    Raises:
        UnusableFileError: a file cannot be read, or two files list different names.
    """
    paths = [folder / name for folder in folders for name in NAME_FILES]
    found = {path.resolve(): path for path in paths if path.is_file()}
    lists = [(path, names) for path in found.values() if (names := _read_names(path))]
    for path, names in lists[1:]:
        if names != lists[0][1]:
            raise UnusableFileError(
                f'{path} and {lists[0][0]} name the classes differently: {", ".join(names)}, and '
                f'{", ".join(lists[0][1])}. Correct or remove one of the two'
            )
    return lists[0] if lists else None


def _read_names(path: Path) -> tuple[str, ...]:
    """Read the names by index: a name a line, or ``index: name`` in all lines."""
    if path.suffix in ('.yaml', '.yml'):
        return read_names(path)
    lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    names = []
    for number, (line, match) in enumerate(zip(lines, numbered)):
        if not line:
            raise UnusableFileError(
                f'{path}, line {number + 1}: it is blank, and names below count by their lines, '
                'from 0: remove it'
            )
        if all(numbered) and match is not None:
            if int(match[1]) != number:
                raise UnusableFileError(
                    f'{path}, line {number + 1}: {line!r:.60} has the index {match[1]}, not '
                    f'{number}: give the names in the order of their indices, from 0'
                )
            line = match[2]
        names.append(line)
    return tuple(names)
