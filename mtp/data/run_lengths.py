"""Masks and label maps as runs of pixels: read and sampled without ever being painted whole.

A run is a stretch of equal pixels in one line of an image; for masks, as COCO stores them, a line
is a column. Sampling a flipped, resized and cropped mask then means to look up where a run's ends
come to lie, and only the result is painted, in the mask's own box.
"""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask


@dataclass
class Runs:
    """R runs of M masks, ordered by mask and line.

    Attributes:
        mask: int64 ``(R,)``, which mask.
        line: int64 ``(R,)``, column in pixels.
        start: int64 ``(R,)``, first row.
        stop: int64 ``(R,)``, row after the last.
    """

    mask: np.ndarray
    line: np.ndarray
    start: np.ndarray
    stop: np.ndarray


class Axis:
    """One axis of an image that is flipped, then resized to the nearest pixel, then cropped.

    Args:
        source: int64 ``(n,)``, the pixel of the original that each pixel of the crop shows; either
            rising or falling.
        size: pixels of the original.
    """

    def __init__(self, source: np.ndarray, size: int) -> None:
        self.source = source
        self.length = len(source)
        self.flipped = self.length > 1 and source[0] > source[-1]
        self.before = np.zeros(size + 1, np.int64)  # pixels of the crop that show one before this
        np.cumsum(np.bincount(source, minlength=size), out=self.before[1:])

    def span(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the original's pixels ``start`` to ``stop`` (excluded) are in the crop."""
        start, stop = self.before[start], self.before[stop]
        return (self.length - stop, self.length - start) if self.flipped else (start, stop)


def encode_mask(segmentation: dict | list, height: int, width: int) -> dict:
    """A mask as COCO stores it (run lengths, or a list of polygons) -> compressed run lengths.

    Returns:
        dict: ``size`` and ``counts``, as pycocotools takes them.
    """
    if isinstance(segmentation, list) or isinstance(segmentation['counts'], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(segmentation)
    return segmentation


def decode_mask(segmentation: dict | list, height: int, width: int) -> np.ndarray:
    """A mask as COCO stores it (run lengths, or a list of polygons) -> uint8 ``(H, W)``."""
    return coco_mask.decode(encode_mask(segmentation, height, width))


def read_counts(data: np.ndarray, ends: np.ndarray, height: int) -> Runs:
    """Decode COCO's compressed run lengths.

    Args:
        data: uint8, the bytes of all masks one after the other.
        ends: int64 ``(M,)``, where each mask's bytes end.
        height: of the image in pixels.

    Source: ``rleFrString`` of pycocotools: numbers of 5 bits a byte, lowest first, bit 5 says that
    more follow; from the third on a number is the difference to the one two before.
    """
    data = data.astype(np.int64) - 48
    last = np.flatnonzero((data & 32) == 0)
    first = np.empty_like(last)
    first[:1], first[1:] = 0, last[:-1] + 1
    size = last - first + 1
    values = data[first] & 31
    for byte in range(1, size.max(initial=0)):
        longer = np.flatnonzero(size > byte)
        values[longer] |= (data[first[longer] + byte] & 31) << 5 * byte
    negative = np.flatnonzero(data[last] & 16)
    values[negative] |= np.int64(-1) << 5 * size[negative]

    stops = np.searchsorted(last, ends)  # numbers up to the end of each mask
    begins = np.concatenate([[0], stops])[:-1]
    numbers = stops - begins
    sums = np.zeros(len(values) + 2, np.int64)  # of every second number, from two before the first
    np.cumsum(values[0::2], out=sums[2::2])
    np.cumsum(values[1::2], out=sums[3::2])
    begin = np.repeat(begins, numbers)
    place = np.arange(len(values)) - begin
    before = begin + np.where(place == 0, 0, np.where(place % 2 == 1, 1, 2))
    ends_of_runs = np.cumsum(sums[2:] - sums[before])
    # positions count down the columns, from each mask's own first pixel
    base = np.concatenate([[0], ends_of_runs])[begins]
    ones = np.flatnonzero(place % 2 == 1)
    mask = np.repeat(np.arange(len(ends)), numbers)[ones]
    return split_runs(
        mask, ends_of_runs[ones - 1] - base[mask], ends_of_runs[ones] - base[mask], height
    )


def split_runs(mask: np.ndarray, start: np.ndarray, stop: np.ndarray, height: int) -> Runs:
    """Stretches of pixels, counted down the columns, cut where a column ends; empty ones go."""
    line, end_line = start // height, (stop - 1) // height
    if (end_line != line).any():  # an empty one ends a line before
        pieces = np.maximum(end_line - line + 1, 0) * (stop > start)
        index = np.repeat(np.arange(len(line)), pieces)
        nth = np.arange(len(index)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        mask, line = mask[index], line[index] + nth
        start = np.maximum(start[index], line * height)
        stop = np.minimum(stop[index], (line + 1) * height)
    return Runs(mask, line, start - line * height, stop - line * height)


def crop_masks(runs: Runs, rows: Axis, columns: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks in a crop, each painted in its own box.

    Args:
        runs: of the original masks.
        rows: of the crop.
        columns: of the crop.

    Returns:
        which masks have a pixel in the crop, int64 ``(K,)``, rising; their tight boxes, int64
        ``(K, 4)``, xyxy in pixels of the crop; uint8, the pixels of one box after the other, each
        box column by column.
    """
    left, right = columns.span(runs.line, runs.line + 1)
    top, bottom = rows.span(runs.start, runs.stop)
    seen = np.flatnonzero((left < right) & (top < bottom))
    mask, left, right, top, bottom = (a[seen] for a in (runs.mask, left, right, top, bottom))
    if not len(mask):
        return mask, np.zeros((0, 4), np.int64), np.zeros(0, np.uint8)
    firsts = np.flatnonzero(np.diff(mask, prepend=-1))
    boxes = np.stack(
        [
            np.minimum.reduceat(left, firsts),
            np.minimum.reduceat(top, firsts),
            np.maximum.reduceat(right, firsts),
            np.maximum.reduceat(bottom, firsts),
        ],
        1,
    )
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas = widths * heights
    # per run, where its box lies in the result, and the box's height
    kept = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(mask)))
    height = heights[kept]
    base = (np.cumsum(areas) - areas - boxes[:, 0] * heights - boxes[:, 1])[kept]
    copies = right - left
    if copies.max() > 1:  # enlarged: a column is shown more than once
        index = np.repeat(np.arange(len(left)), copies)
        left = left[index] + np.arange(len(index)) - np.repeat(np.cumsum(copies) - copies, copies)
        base, height, top, bottom = base[index], height[index], top[index], bottom[index]
    column = base + left * height
    return mask[firsts], boxes, _paint(column + top, column + bottom, 1, int(areas.sum()))


def crop_map(runs: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """A label map in a crop, uint8 ``(rows, columns)``; what no run covers is 0.

    Args:
        runs: int ``(R, 4)``, row, first column, column after the last, and label of each run of
            the original.
        rows: of the crop.
        columns: of the crop.
    """
    lines, starts, stops, values = np.ascontiguousarray(runs.T, np.int64)
    top, bottom = rows.span(lines, lines + 1)
    left, right = columns.span(starts, stops)
    seen = np.flatnonzero((top < bottom) & (left < right))
    copies = (bottom - top)[seen]
    index = np.repeat(seen, copies)
    line = top[index] + np.arange(len(index)) - np.repeat(np.cumsum(copies) - copies, copies)
    line *= columns.length
    painted = _paint(
        line + left[index],
        line + right[index],
        values[index].astype(np.uint8),
        rows.length * columns.length,
    )
    return painted.reshape(rows.length, columns.length)


def _paint(
    starts: np.ndarray, stops: np.ndarray, values: np.ndarray | int, length: int
) -> np.ndarray:
    """Disjoint stretches of ``values`` on 0, uint8 ``(length,)``."""
    order = np.argsort(starts, kind='stable')  # fast on what is sorted already, as without flips
    edges = np.zeros(2 * len(order) + 2, np.int64)
    edges[1:-1:2], edges[2::2], edges[-1] = starts[order], stops[order], length
    painted = np.zeros(2 * len(order) + 1, np.uint8)
    painted[1::2] = values if np.isscalar(values) else values[order]
    return np.repeat(painted, np.diff(edges))
