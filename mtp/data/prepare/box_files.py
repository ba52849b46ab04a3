"""Readers of object boxes, in the formats that publishers of detection data sets use.

Errors name the file and the line.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mtp.data.label_files import parse_xml, read_lines
from mtp.data.rotated_labels import CORNER_TAGS
from mtp.data.values import check_coordinates, check_size


@dataclass(frozen=True)
class Box:
    """Labelled box of an object.

    Attributes:
        place: file and line of the label.
        name: name of the class.
        corners: corners of the box, ``(4, 2)``, x and y in pixels.
        difficulty: 0, or more for objects that are hard to recognise.
    """

    place: str
    name: str
    corners: np.ndarray
    difficulty: int = 0

    @property
    def degenerate(self) -> bool:
        """Whether two neighbouring corners are equal."""
        return bool((self.corners == np.roll(self.corners, 1, 0)).all(1).any())


def checked(boxes: Iterator[Box], classes: Collection[str], shape: tuple[int, int]) -> list[Box]:
    """Check boxes, and return them unchanged.

    Args:
        boxes: boxes of an image.
        classes: names of the known classes.
        shape: height and width of the image in pixels. Boxes may exceed it, as they do in all data
            sets.

    Raises:
        ValueError: a class is unknown, or a box is completely outside the image.
    """
    result = []
    size = np.array(shape[::-1])
    for box in boxes:
        if box.name not in classes:
            raise ValueError(
                f'{box.place}: unknown class {box.name!r}; known are {", ".join(classes)}'
            )
        if (box.corners.max(0) < 0).any() or (box.corners.min(0) > size).any():
            raise ValueError(
                f'{box.place}: the corners {box.corners.tolist()} of {box.name!r} are '
                f'outside the image, which has {shape[1]} x {shape[0]} pixels'
            )
        result.append(box)
    return result


def read_dota(path: Path) -> Iterator[Box]:
    """Read DOTA's text: lines of ``x1 y1 x2 y2 x3 y3 x4 y4 class difficulty`` after a header.

    The header has two optional lines.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: a line has another form.
    """
    for place, line in read_lines(path):
        fields = line.split()
        if not fields or fields[0].startswith(('imagesource', 'gsd')):
            continue
        if len(fields) != 10 or not re.fullmatch('[0-9]{1,9}', fields[9]):
            raise ValueError(
                f'{place}: {line!r} is not of the form "x1 y1 x2 y2 x3 y3 x4 y4 class difficulty"'
            )
        yield Box(place, fields[8], _corners(place, fields[:8]), int(fields[9]))


def read_xml(path: Path) -> tuple[ElementTree.Element, list[tuple[str, ElementTree.Element]]]:
    """Read an xml file: its root, and the place and element of each ``object`` in it.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not xml, or truncated.
    """
    root, data = parse_xml(path), path.read_bytes()
    lines = [
        data.count(b'\n', 0, match.start()) + 1 for match in re.finditer(rb'<object[\s/>]', data)
    ]
    elements = [*root.iter('object')]
    places = [f'{path}, line {line}' for line in lines]
    if len(places) != len(elements):  # one is in a comment, or the file is UTF-16
        places = [f'{path}, object {number}' for number in range(1, len(elements) + 1)]
    return root, list(zip(places, elements))


def read_size(path: Path, root: ElementTree.Element) -> tuple[int, int]:
    """Return the height and width of the image that a VOC xml gives, in pixels.

    Raises:
        ValueError: the xml does not give them.
    """
    size = [root.findtext(f'size/{side}', '') for side in ('height', 'width')]
    if not all(re.fullmatch(r'\s*[0-9]{1,9}\s*', side) for side in size):
        raise ValueError(
            f'{path} does not give the size of its image: it has no integer at '
            'size/width and size/height'
        )
    return check_size(int(size[0]), int(size[1]), str(path))


def horizontal(objects: list[tuple[str, ElementTree.Element]]) -> Iterator[Box]:
    """Yield the objects of a VOC xml with ``bndbox``, with class names in lower case.

    Raises:
        ValueError: the class or a side of an object is missing.
    """
    for place, element in objects:
        x1, y1, x2, y2 = _numbers(
            place, element, [f'bndbox/{side}' for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        )
        yield Box(
            place,
            _text(place, element, 'name').lower(),
            np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]),
        )


def oriented(objects: list[tuple[str, ElementTree.Element]]) -> Iterator[Box]:
    """Yield the objects of DIOR-R's xml with ``robndbox``, with class names in lower case.

    Raises:
        ValueError: the class or a corner of an object is missing.
    """
    for place, element in objects:
        corners = _numbers(place, element, [f'robndbox/{tag}' for tag in CORNER_TAGS])
        yield Box(place, _text(place, element, 'name').lower(), corners.reshape(4, 2))


def read_fair1m(path: Path) -> Iterator[Box]:
    """Read FAIR1M's xml: boxes of five points, the last equal to the first.

    Spaces in class names become hyphens.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is not xml, or truncated; the class or a corner of an object is
            missing.
    """
    for place, element in read_xml(path)[1]:
        points = [(point.text or '').split(',') for point in element.findall('points/point')]
        if len(points) not in (4, 5) or any(len(point) != 2 for point in points):
            raise ValueError(
                f'{place}: it has {len(points)} points, but a box is given by 5 '
                'points "x,y", the last equal to the first'
            )
        corners = _corners(place, [value for point in points[:4] for value in point])
        yield Box(place, _text(place, element, 'possibleresult/name').replace(' ', '-'), corners)


def _text(place: str, element: ElementTree.Element, tag: str) -> str:
    text = (element.findtext(tag) or '').strip()
    if not text:
        raise ValueError(f'{place}: the object has no {tag}')
    return text


def _numbers(place: str, element: ElementTree.Element, tags: list[str]) -> np.ndarray:
    return np.array(check_coordinates([_text(place, element, tag) for tag in tags], place))


def _corners(place: str, texts: list[str]) -> np.ndarray:
    return np.array(check_coordinates(texts, place)).reshape(4, 2)
