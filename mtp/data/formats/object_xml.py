"""Parsers of xml with an ``object`` for each box: VOC, DIOR-R and FAIR1M."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mtp.data.box_rules import check_order
from mtp.data.formats.base import Box, Size
from mtp.data.label_files import parse_xml
from mtp.data.values import check_coordinates
from mtp.files import UnusableFileError

SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
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

Objects = list[tuple[str, ElementTree.Element]]  # place and element of each object
_OBJECT = re.compile(r'<(?:[\w.-]+:)?object[\s/>]')
_NO_ELEMENTS = re.compile(r'<!--.*?-->|<!\[CDATA\[.*?\]\]>', re.DOTALL)


def read_voc(path: Path, size: Size | None = None) -> Iterator[Box]:
    """Read VOC's xml: ``bndbox`` of each object, as it stands.

    Args:
        path: label file.
        size: height and width of the image in pixels; None if they are unknown.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: the file is not xml, or of an image of another size; the class or a side
            of an object is missing, or its corners are exchanged. The message has file and line.
    """
    for place, element in read_objects(path, size)[1]:
        x1, y1, x2, y2 = _numbers(place, element, [f'bndbox/{side}' for side in SIDES])
        fault = check_order((x1, y1), (x2, y2))
        if fault is not None:
            raise UnusableFileError(f'{place}: {fault}')
        corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
        yield Box(place, _text(place, element, 'name'), corners, _difficulty(element))


def read_dior_r(path: Path, size: Size | None = None) -> Iterator[Box]:
    """Read DIOR-R's xml: ``robndbox`` of each object. Arguments are those of :func:`read_voc`.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: the file is not xml, or of an image of another size; the class or a
            corner of an object is missing. The message has file and line.
    """
    for place, element in read_objects(path, size)[1]:
        corners = _numbers(place, element, [f'robndbox/{tag}' for tag in CORNER_TAGS])
        name = _text(place, element, 'name')
        yield Box(place, name, corners.reshape(4, 2), _difficulty(element))


def read_fair1m(path: Path, size: Size | None = None) -> Iterator[Box]:
    """Read FAIR1M's xml: five points of each object, the last equal to the first.

    Arguments are those of :func:`read_voc`.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: the file is not xml, or of an image of another size; the class or a
            corner of an object is missing, or its outline is not closed. The message has file and
            line.
    """
    for place, element in read_objects(path, size)[1]:
        points = [(point.text or '').split(',') for point in element.findall('points/point')]
        if len(points) not in (4, 5) or any(len(point) != 2 for point in points):
            raise UnusableFileError(
                f'{place}: it has {len(points)} points, but a box is given by 5 '
                'points "x,y", the last equal to the first'
            )
        texts = [value for point in points for value in point]
        corners = np.array(check_coordinates(texts, place)).reshape(-1, 2)
        if len(corners) == 5 and (corners[4] != corners[0]).any():
            raise UnusableFileError(
                f'{place}: the last of its 5 points, {",".join(points[4])}, is not equal to the '
                f'first, {",".join(points[0])}: a box has 4 corners. Correct or remove it'
            )
        yield Box(place, _text(place, element, 'possibleresult/name'), corners[:4])


def read_objects(path: Path, size: Size | None = None) -> tuple[ElementTree.Element, Objects]:
    """Read an xml file: its root, and the place and element of each ``object`` in it.

    Args:
        path: label file.
        size: height and width of the image in pixels; None if they are unknown.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: the file is not xml, or gives another size than that of the image.
    """
    root, text = parse_xml(path)
    _check_size(path, root, size)
    text = _NO_ELEMENTS.sub(lambda match: '\n' * match[0].count('\n'), text)
    lines = [text.count('\n', 0, match.start()) + 1 for match in _OBJECT.finditer(text)]
    elements = [*root.iter('object')]
    places = [f'{path}, line {line}' for line in lines]
    if len(places) != len(elements):  # some stand in an entity
        places = [f'{path}, object {number}' for number in range(1, len(elements) + 1)]
    return root, list(zip(places, elements))


def _check_size(path: Path, root: ElementTree.Element, size: Size | None) -> None:
    """Refuse the labels of an image of another size; tools that do not know the size write 0."""
    stated = tuple(_side(root.findtext(f'size/{side}', '')) for side in ('height', 'width'))
    if size is not None and all(stated) and stated != tuple(size):
        raise UnusableFileError(
            f'{path} is of an image of height and width {stated}, but the image has {tuple(size)}, '
            'rotated by its EXIF orientation: make the labels again from this image, or restore it'
        )


def _side(text: str) -> float:
    """Return a side in pixels, 0 if it is unknown; some tools write ``100.0``."""
    try:
        number = float(text)
    except ValueError:
        return 0
    if not number > 0:
        return 0
    return int(number) if number.is_integer() else number


def _difficulty(element: ElementTree.Element) -> int:
    return int(element.findtext('difficult', '').strip() == '1')


def _text(place: str, element: ElementTree.Element, tag: str) -> str:
    text = (element.findtext(tag) or '').strip()
    if not text:
        raise UnusableFileError(f'{place}: the object has no {tag}: add it, or remove the object')
    for each in (tag, tag.partition('/')[0]):
        if (times := len(element.findall(each))) > 1:
            raise UnusableFileError(
                f'{place}: the object has {each} {times} times: give each box an object of its own'
            )
    return text


def _numbers(place: str, element: ElementTree.Element, tags: list[str]) -> np.ndarray:
    return np.array(check_coordinates([_text(place, element, tag) for tag in tags], place))
