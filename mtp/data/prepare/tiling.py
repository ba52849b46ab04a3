"""Large images with rotated boxes -> tiles, cut and named as mmrotate's ``img_split.py`` does.

A tile is called ``<image>__<side>__<x>___<y>``: its side and upper left corner, in pixels of the
image. mmrotate's ``DOTAMetric`` reads from that where a tile lies, in order to merge predictions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from mtp.data.decoding import read_size
from mtp.data.prepare.box_files import Box
from mtp.data.prepare.images import read_rgb, write_png
from mtp.files import whole

# A tile that reaches beyond the image is filled with the mean of ImageNet, RGB, and needs a share
# of image; an object belongs to the tiles that hold a share of it. The values are those of the
# configurations that come with mmrotate's tool.
PADDING = (124, 116, 104)
MIN_IMAGE = 0.6
MIN_OBJECT = 0.7
# In place of the difficulty, where an object reaches beyond its tile.
CUT = 2


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Attributes:
        side: of a tile at rate 1, in pixels.
        overlap: of neighbouring tiles at rate 1, in pixels.
        rates: a tile covers ``side / rate`` pixels of the image, and keeps them: what reads it
            resizes it. So coordinates are those of the image but for an offset.
    """

    side: int
    overlap: int
    rates: tuple[float, ...] = (1.0,)

    def windows(self, height: int, width: int) -> np.ndarray:
        """Tiles of an image, int ``(T, 3)``: x, y, side."""
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
        return tiles[share > share.max() - 0.01]  # a small image: what holds most of it


def _starts(length: int, side: int, step: int) -> list[int]:
    """Evenly spaced, but for the last one, which ends with the image."""
    if length <= side:
        return [0]
    return [min(i * step, length - side) for i in range(-(-(length - side) // step) + 1)]


def shares(corners: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Which share, 0..1, of each object a tile holds.

    Args:
        corners: ``(N, 4, 2)``.
        tiles: ``(T, 3)``: x, y, side.

    Returns:
        float64 ``(N, T)``; 0 for objects without extent.
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

    Files that are there stay.

    Args:
        tiling: how to cut.
        image: file.
        name: of the image, in the names of its tiles.
        boxes: its objects; tiles without any are not written. None for an image without labels,
            of which all tiles are written.
        dst: folder to write to.

    Returns:
        Counter: of ``'tiles'``, ``'objects'`` in them, and of what was left out: ``'tiles without
        objects'``, ``'objects without extent'``, ``'objects that no tile holds'``.

    Raises:
        ValueError: no image, or one cut short.
    """
    tiles = tiling.windows(*read_size(image))
    count = Counter()
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
    # the label is written last
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
    """Lines of each tile's label file."""
    corners = np.array([box.corners for box in boxes]).reshape(-1, 4, 2)
    held = shares(corners, tiles) >= MIN_OBJECT
    extent = shapely.area(shapely.convex_hull(shapely.polygons(corners))) > 0
    count['objects without extent'] += int((~extent).sum())
    count['objects that no tile holds'] += int((extent & ~held.any(1)).sum())
    count['objects'] += int(held.sum())
    lines = []
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
