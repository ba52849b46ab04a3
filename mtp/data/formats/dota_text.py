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
DIFFICULTIES = ('0', '1', '2')  # 2 is that of objects that a tile cuts
_NUMBER = re.compile(r'[-+]?[0-9]*\.?[0-9]+')


def read_dota(path: Path, size: Size | None = None) -> Iterator[Box]:
    """Read DOTA's text: lines of ``x1 y1 x2 y2 x3 y3 x4 y4 class difficulty`` after a header.

    The header and the difficulty, 0 to 2, are optional. A class may have spaces, and may end with
    a larger number, such as ``Boeing 747``.

    Args:
        path: label file.
        size: size of the image, of which the corners are independent.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: a line has another form, or some lines end with a difficulty and another
            with a larger number; the message has file and line.
    """
    rated = numbered = ''  # the first line that ends with a difficulty, and with a larger number
    for place, line in read_lines(path):
        fields = line.split()
        if not fields or fields[0].lower().startswith(HEADER):
            continue
        name, difficulty = fields[8:], 0
        if len(name) > 1 and _NUMBER.fullmatch(name[-1]):
            if name[-1] in DIFFICULTIES:
                difficulty, rated = int(name.pop()), rated or place
            elif name[-1].isdecimal():
                numbered = numbered or place
            else:  # such as a confidence
                name = []
        if not name:
            raise UnusableFileError(
                f'{place}: {line!r:.200} is not of the form '
                '"x1 y1 x2 y2 x3 y3 x4 y4 class difficulty": correct or remove it'
            )
        if rated and numbered:
            raise UnusableFileError(
                f'{numbered}: it ends with a number that is no difficulty, 0 to 2, as that of '
                f'{rated.rpartition(", ")[2]} is: end each line with a difficulty, or none'
            )
        corners = np.array(check_coordinates(fields[:8], place)).reshape(4, 2)
        yield Box(place, ' '.join(name), corners, difficulty)
