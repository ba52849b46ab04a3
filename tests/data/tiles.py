"""Reading the label files and the names of tiles."""

import re
from pathlib import Path

import numpy as np


def boxes_of(path: Path) -> list[tuple[np.ndarray, str, int]]:
    """Corners, class and difficulty of each line of a tile's label file."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(np.array(line[:8], float).reshape(4, 2), line[8], int(line[9])) for line in lines]


def place(stem: str) -> tuple[str, int, int, int]:
    """Image, side, x, y of a tile."""
    name, side, x, y = re.fullmatch(r'(.+?)__(\d+)__(\d+)___(\d+)', stem).groups()
    return name, int(side), int(x), int(y)
