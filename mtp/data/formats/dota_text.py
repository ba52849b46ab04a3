"""Parser of DOTA's text: rotated boxes by their corners."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mtp.data.formats.base import Box, Size
from mtp.data.label_files import read_lines
from mtp.data.values import check_coordinates
from mtp.files import UnusableFileError

HEADER = ('imagesource', 'gsd', 'acquisition')
_NUMBER = re.compile(r'[-+]?[0-9]*\.?[0-9]+')


def read_dota(path: Path, size: Size | None = None) -> Iterator[Box]:
    """Read DOTA's text: lines of ``x1 y1 x2 y2 x3 y3 x4 y4 class difficulty`` after a header.

    The header and the difficulty are optional. A class may have spaces.

    Args:
        path: label file.
        size: size of the image, of which the corners are independent.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: a line has another form; the message has file and line.
    """
    for place, line in read_lines(path):
        fields = line.split()
        if not fields or fields[0].lower().startswith(HEADER):
            continue
        name, difficulty = fields[8:], 0
        if len(name) > 1 and _NUMBER.fullmatch(name[-1]):
            *name, last = name
            if not re.fullmatch('[0-9]{1,9}', last):
                name = []
            else:
                difficulty = int(last)
        if not name:
            raise UnusableFileError(
                f'{place}: {line!r:.200} is not of the form '
                '"x1 y1 x2 y2 x3 y3 x4 y4 class difficulty": correct or remove it'
            )
        corners = np.array(check_coordinates(fields[:8], place)).reshape(4, 2)
        yield Box(place, ' '.join(name), corners, difficulty)
