"""Tiles of a scene: where they lie, and which of them answers for a pixel."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Tiles:
    """Rows of tiles that cover a scene; neighbours overlap at least as asked.

    Tiles are spread evenly, so that all have the same size and none exceeds the scene.

    Args:
        size: height and width of the scene in pixels of the model.
        side: side of a tile in pixels of the model.
        overlap: least overlap of neighbouring tiles in pixels, from 0 to below ``side``.
    """

    size: tuple[int, int]
    side: int
    overlap: int

    @cached_property
    def tops(self) -> list[int]:
        """Upper edge of each row of tiles, pixels."""
        return starts(self.size[0], self.side, self.overlap)

    @cached_property
    def lefts(self) -> list[int]:
        """Left edge of each column of tiles, pixels."""
        return starts(self.size[1], self.side, self.overlap)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a tile in pixels: the scene's where it is smaller."""
        return min(self.side, self.size[0]), min(self.side, self.size[1])

    def row(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield top and left of the tiles of a row."""
        top = self.tops[number]
        yield from ((top, left) for left in self.lefts)

    def owned(self, top: int, left: int) -> tuple[float, float, float, float]:
        """Return the part of the scene that a tile answers for: top, left, bottom, right.

        Borders run in the middle of overlaps; at the scene's edge there are none.
        """
        rows = borders(self.tops, self.shape[0], top)
        columns = borders(self.lefts, self.shape[1], left)
        return rows[0], columns[0], rows[1], columns[1]


def starts(length: int, side: int, overlap: int) -> list[int]:
    """Return where tiles begin that cover a length, evenly spread."""
    if length <= side:
        return [0]
    number = math.ceil((length - side) / (side - overlap)) + 1
    return np.linspace(0, length - side, number).round().astype(int).tolist()


def borders(begins: list[int], side: int, begin: int) -> tuple[float, float]:
    """Return the first and last coordinate that a tile answers for along an axis."""
    i = begins.index(begin)
    first = -math.inf if i == 0 else (begins[i - 1] + side + begin) / 2
    last = math.inf if i == len(begins) - 1 else (begin + side + begins[i + 1]) / 2
    return first, last


def weights(begins: list[int], side: int, begin: int, kind: str) -> np.ndarray:
    """Return the weight of each pixel of a tile along an axis, float32 ``(side,)``.

    Args:
        begins: where the tiles begin.
        side: side of a tile.
        begin: where this tile begins.
        kind: ``'cosine'``: from the edge to the end of the overlap it rises as a half cosine;
            ``'centre'``: the distance to the nearest edge of the tile, in pixels. An edge of the
            scene is infinitely far.
    """
    i = begins.index(begin)
    places = np.arange(side) + 0.5
    before = places if i else np.full(side, np.inf)
    after = side - places if i < len(begins) - 1 else np.full(side, np.inf)
    if kind == 'centre':
        return np.minimum(before, after).astype(np.float32)
    ramps: list[np.ndarray] = []
    for distance, neighbour in ((before, i - 1), (after, i + 1)):
        if not np.isfinite(distance).all():
            ramps.append(np.ones(side))
            continue
        width = side - abs(begins[neighbour] - begin)
        ramps.append(0.5 - 0.5 * np.cos(np.pi * (distance / max(width, 1)).clip(0, 1)))
    return (ramps[0] * ramps[1]).clip(1e-4).astype(np.float32)
