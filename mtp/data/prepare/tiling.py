"""Tiling of large images with rotated boxes, as by mmrotate's ``img_split.py``.

A tile is called ``<image>__<side>__<x>___<y>``, after its side and upper left corner in pixels of
the image. mmrotate's ``DOTAMetric`` reads the tile's position from its name, to merge predictions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from mtp.data.decoding import read_size
from mtp.data.formats import Box
from mtp.data.prepare.images import read_rgb, write_png
from mtp.files import whole

# A tile that exceeds the image is padded with ImageNet's mean, RGB, and must contain a minimum
# share of image. An object belongs to the tiles that hold a minimum share of it. The values are
# those of the configs that come with mmrotate's tool.
PADDING = (124, 116, 104)
MIN_IMAGE = 0.6
MIN_OBJECT = 0.7
# Difficulty given to an object that exceeds its tile.
CUT = 2


@dataclass(frozen=True)
class Tiling:
    """Sizes and places of tiles.

    Attributes:
        side: side of a tile at rate 1, in pixels.
        overlap: overlap of neighbouring tiles at rate 1, in pixels.
        rates: resize rates. A tile covers ``side / rate`` pixels of the image, and is stored at
            that size; its reader resizes it. Its coordinates are thus those of the image but for
            an offset.
    """

    side: int
    overlap: int
    rates: tuple[float, ...] = (1.0,)

    def windows(self, height: int, width: int) -> np.ndarray:
        """Return the tiles of an image, int ``(T, 3)``: x, y, side, in pixels."""
        found = []
        for rate in self.rates:
            side = int(self.side / rate)
            step = side - int(self.overlap / rate)
            found += [
                (x, y, side)
                for x in _starts(width, side, step)
                for y in _starts(height, side, step)
            ]
        tiles = np.array(found)
        inside = np.minimum(tiles[:, 2:], np.array([width, height]) - tiles[:, :2]).prod(1)
        share = inside / tiles[:, 2] ** 2
        if (share > MIN_IMAGE).any():
            return tiles[share > MIN_IMAGE]
        return tiles[share > share.max() - 0.01]  # a small image: the tiles that hold most of it


def _starts(length: int, side: int, step: int) -> list[int]:
    """Return starts of tiles: evenly spaced, except for the last tile, which ends at the border."""
    if length <= side:
        return [0]
    return [min(i * step, length - side) for i in range(-(-(length - side) // step) + 1)]


def shares(corners: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Return the share of each object that each tile holds.

    Args:
        corners: corners of the objects, ``(N, 4, 2)``, x and y in pixels.
        tiles: tiles, ``(T, 3)``: x, y, side, in pixels.

    Returns:
        Shares, float64 ``(N, T)``, 0..1.
    """
    # corners in crossed order make two triangles
    objects = shapely.make_valid(shapely.polygons(corners))
    x, y, side = tiles.T
    squares = shapely.box(x, y, x + side, y + side)
    result = np.zeros((len(objects), len(squares)))
    i, j = shapely.STRtree(squares).query(objects, predicate='intersects')
    result[i, j] = shapely.area(shapely.intersection(objects[i], squares[j]))
    return result / np.maximum(shapely.area(objects), 1e-6)[:, None]


def cut(tiling: Tiling, image: Path, name: str, boxes: Sequence[Box] | None, dst: Path) -> Counter:
    """Write an image's tiles, ``images/*.png``, and their labels, ``annfiles/*.txt``.

    Existing files are kept.

    Args:
        tiling: sizes and places of the tiles.
        image: file of the image.
        name: name of the image in the names of its tiles.
        boxes: boxes of its objects; tiles without objects are not written. None for an image
            without labels, of which all tiles are written.
        dst: folder to write to.

    Returns:
        Counter: numbers of ``'tiles'``, of ``'objects'`` in them, and of what was left out:
        ``'tiles without objects'``, ``'objects that no tile holds'``.

    Raises:
        ValueError: the file is not an image, or truncated.
    """
    tiles = tiling.windows(*read_size(image))
    count: Counter[str] = Counter()
    labels: Sequence[list[str] | None]
    if boxes is None:
        labels = [None] * len(tiles)
    else:
        labels = _labels(boxes, tiles, count)
    targets = [
        (tile, f'{name}__{tile[2]}__{tile[0]}___{tile[1]}', lines)
        for tile, lines in zip(tiles, labels)
        if lines or boxes is None
    ]
    count['tiles'] = len(targets)
    count['tiles without objects'] = len(tiles) - len(targets)
    # the label is written last: it marks a finished tile
    missing = [
        target
        for target in targets
        if not (
            dst / 'images' / f'{target[1]}.png'
            if boxes is None
            else dst / 'annfiles' / f'{target[1]}.txt'
        ).is_file()
    ]
    if missing:
        pixels = read_rgb(image)
        for (x, y, side), stem, lines in missing:
            part = pixels[y : y + side, x : x + side]
            if part.shape[:2] != (side, side):
                padded = np.full((side, side, 3), PADDING, np.uint8)
                padded[: part.shape[0], : part.shape[1]] = part
                part = padded
            write_png(dst / 'images' / f'{stem}.png', part)
            if lines is not None:
                with whole(dst / 'annfiles' / f'{stem}.txt') as unfinished:
                    unfinished.write_text(''.join(lines))
    return count


def _labels(boxes: Sequence[Box], tiles: np.ndarray, count: Counter) -> list[list[str]]:
    """Return the lines of each tile's label file, and count the objects."""
    corners = np.array([box.corners for box in boxes]).reshape(-1, 4, 2)
    held = shares(corners, tiles) >= MIN_OBJECT
    count['objects that no tile holds'] += int((~held.any(1)).sum())
    count['objects'] += int(held.sum())
    lines: list[list[str]] = []
    for (x, y, side), chosen in zip(tiles, held.T):
        lines.append([])
        for i in np.flatnonzero(chosen):
            moved = corners[i] - (x, y)
            whole_in = (moved >= 0).all() and (moved <= side).all()
            values = ' '.join(f'{value:.10g}' for value in moved.reshape(-1))
            lines[-1].append(
                f'{values} {boxes[i].name} {boxes[i].difficulty if whole_in else CUT}\n'
            )
    return lines
