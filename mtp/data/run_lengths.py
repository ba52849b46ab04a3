"""Masks and label maps as runs of pixels: read and sampled without painting them at full size.

A run is a stretch of equal pixels in one line of an image; for masks, as COCO stores them, a line
is a column. To flip, resize and crop a mask, the ends of its runs are looked up in the crop. Only
the result is painted, in the mask's own box.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mtp.data.values import find_fault, is_number

_MAX_DIGITS = 7  # of 5 bits, of a run length
_DAMAGED = 'its run lengths are damaged:'


@dataclass
class Runs:
    """R runs of M masks, ordered by mask and line.

    Attributes:
        mask: index of each run's mask, int64 ``(R,)``.
        line: column of each run, int64 ``(R,)``.
        start: first row of each run, int64 ``(R,)``.
        stop: row after the last of each run, int64 ``(R,)``.
    """

    mask: np.ndarray
    line: np.ndarray
    start: np.ndarray
    stop: np.ndarray


class Axis:
    """One axis of an image that is flipped, then resized to the nearest pixel, then cropped.

    Args:
        source: pixel of the original that each pixel of the crop shows, int64 ``(n,)``, ascending
            or descending.
        size: number of pixels of the original.
    """

    def __init__(self, source: np.ndarray, size: int) -> None:
        self.source = source
        self.length = len(source)
        self.flipped = self.length > 1 and source[0] > source[-1]
        self.before = np.zeros(size + 1, np.int64)  # number of crop pixels showing earlier pixels
        np.cumsum(np.bincount(source, minlength=size), out=self.before[1:])

    def span(self, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map the original's pixels ``start`` to ``stop`` (excluded) to those of the crop."""
        start, stop = self.before[start], self.before[stop]
        return (self.length - stop, self.length - start) if self.flipped else (start, stop)


def encode_mask(segmentation: object, height: int, width: int) -> dict:
    """Convert a mask as COCO stores it (run lengths or list of polygons) to compressed run lengths.

    Args:
        segmentation: mask of an annotation, which is not trusted: pycocotools checks nothing.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Returns:
        dict: ``size`` and ``counts``, as pycocotools takes them.

    Raises:
        ValueError: it is no mask of an image of this size; the message does not name the place.
    """
    mask = compress_mask(segmentation, height, width)
    damage = find_damage([mask['counts']], height * width)
    if damage is not None:
        raise ValueError(damage[1])
    return mask


def compress_mask(segmentation: object, height: int, width: int) -> dict:
    """Convert a mask as :func:`encode_mask` does, but leave its ``counts``, bytes, to be checked.

    Of many masks :func:`find_damage` checks them at once.
    """
    if isinstance(segmentation, list):
        for number, polygon in enumerate(segmentation):
            _check_polygon(polygon, f'its polygon {number}', height, width)
        if not segmentation:
            raise ValueError('its mask has no polygon')
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, dict) or not {'size', 'counts'} <= set(segmentation):
        raise ValueError(
            f'its segmentation is {segmentation!r:.60}, neither polygons nor size and counts'
        )
    size = segmentation['size']
    if not isinstance(size, list | tuple) or tuple(size) != (height, width):
        shown = tuple(size) if isinstance(size, list) else size
        raise ValueError(
            f'its mask is of size {shown!r:.60}, but its image has {(height, width)} pixels'
        )
    counts = segmentation['counts']
    if isinstance(counts, list):
        if not all(isinstance(c, int | np.integer) and 0 <= c <= height * width for c in counts):
            raise ValueError(f'{_DAMAGED} they are not all lengths within the image')
        return coco_mask.frPyObjects(dict(size=[height, width], counts=counts), height, width)
    if not isinstance(counts, str | bytes):
        raise ValueError(f'its counts are {counts!r:.60}, neither run lengths nor their text')
    data = counts.encode() if isinstance(counts, str) else counts
    return dict(size=[height, width], counts=data)


def decode_mask(segmentation: object, height: int, width: int) -> np.ndarray:
    """Decode a mask as COCO stores it (run lengths or list of polygons): uint8 ``(H, W)``.

    Raises:
        ValueError: as in :func:`encode_mask`.
    """
    return coco_mask.decode(encode_mask(segmentation, height, width))


def _check_polygon(polygon: object, what: str, height: int, width: int) -> None:
    """Refuse a polygon with which pycocotools crashes, or takes memory without bounds."""
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ValueError(f'{what} is {polygon!r:.60}, not [x1, y1, x2, y2, x3, y3, ...]')
    if len(polygon) < 6:
        raise ValueError(
            f'{what} has {len(polygon) // 2} points, not three or more: {polygon!r:.60}'
        )
    if not all(map(is_number, polygon)):
        raise ValueError(f'{what} holds other things than numbers: {polygon!r:.60}')
    fault = find_fault(polygon)
    if fault is not None:
        raise ValueError(f'{what} is at fault: {fault}')
    points = np.array(polygon, np.float64).reshape(-1, 2)
    far = np.maximum(-points, points - (width, height)).max()
    if far > max(height, width):
        raise ValueError(f'{what} leaves the image of {width} x {height} pixels by {far:.0f}')
    # pycocotools walks along the outline, with some 100 bytes a pixel
    outline = np.abs(np.roll(points, -1, 0) - points).max(1).sum()
    if outline > 2 * height * width + 100_000:
        raise ValueError(f'{what} has an outline of {outline:.0f} pixels')


def find_damage(counts: Sequence[bytes], pixels: int) -> tuple[int, str] | None:
    """Find the first of some compressed run lengths that are not those of an image.

    Args:
        counts: run lengths of each mask, COCO's compressed text.
        pixels: number of pixels of the image.

    Returns:
        tuple | None: index of the mask, and what is wrong with it; None if all are good.
    """
    ends = np.cumsum([len(part) for part in counts], dtype=np.int64)
    if not len(ends):
        return None
    digits = np.frombuffer(b''.join(counts), np.uint8).astype(np.int64) - 48
    # a mask without a byte, or whose last number goes on, would be read with that after it
    empty = np.diff(ends, prepend=0) == 0
    strange = (digits < 0) | (digits > 63)
    if not (empty.any() or strange.any() or (digits[ends - 1] & 32).any()):
        last = np.flatnonzero((digits & 32) == 0)
        strange[last] = np.diff(last, prepend=-1) > _MAX_DIGITS
        if not strange.any():
            runs, begins, _, place = _decode(digits, ends)
            wrong = np.searchsorted(begins, np.flatnonzero((runs < 0) | (runs > pixels)), 'right')
            if len(wrong):
                return int(wrong[0]) - 1, f'{_DAMAGED} they are not all lengths within the image'
            sums = np.add.reduceat(runs, begins)
            wrong = np.flatnonzero(sums != pixels)
            if not len(wrong):
                return None
            return int(wrong[0]), (
                f'{_DAMAGED} they sum up to {sums[wrong[0]]}, but the image has {pixels} pixels'
            )
    if len(counts) > 1:  # look at each by itself
        return next(
            (i, damage[1])
            for i, part in enumerate(counts)
            if (damage := find_damage([part], pixels)) is not None
        )
    return 0, f'{_DAMAGED} their text is no list of numbers'


def read_counts(data: np.ndarray, ends: np.ndarray, height: int) -> Runs:
    """Decode COCO's compressed run lengths, which are good.

    Args:
        data: bytes of all masks, concatenated, uint8.
        ends: end of each mask's bytes in ``data``, int64 ``(M,)``.
        height: height of the image in pixels.
    """
    runs, begins, mask, place = _decode(data.astype(np.int64) - 48, ends)
    ends_of_runs = np.cumsum(runs)
    # positions count down the columns, from each mask's own first pixel
    base = np.concatenate([[0], ends_of_runs])[begins]
    ones = np.flatnonzero(place % 2 == 1)
    mask = mask[ones]
    return split_runs(
        mask, ends_of_runs[ones - 1] - base[mask], ends_of_runs[ones] - base[mask], height
    )


def _decode(
    digits: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return run lengths, the first run of each mask, and each run's mask and place in it.

    Source: ``rleFrString`` of pycocotools. A byte holds 5 bits of a number, lowest first; bit 5
    says that more follow. From the third on, a number is the difference to the one two before.
    """
    last = np.flatnonzero((digits & 32) == 0)
    first = np.empty_like(last)
    first[:1], first[1:] = 0, last[:-1] + 1
    size = last - first + 1
    values = digits[first] & 31
    for digit in range(1, size.max(initial=0)):
        longer = np.flatnonzero(size > digit)
        values[longer] |= (digits[first[longer] + digit] & 31) << 5 * digit
    negative = np.flatnonzero(digits[last] & 16)
    values[negative] |= np.int64(-1) << 5 * size[negative]

    stops = np.searchsorted(last, ends)  # count of numbers up to the end of each mask
    begins = np.concatenate([[0], stops])[:-1]
    numbers = stops - begins
    # sums[i + 2] = values[i] + values[i - 2] + ...
    sums = np.zeros(len(values) + 2, np.int64)
    np.cumsum(values[0::2], out=sums[2::2])
    np.cumsum(values[1::2], out=sums[3::2])
    begin = np.repeat(begins, numbers)
    place = np.arange(len(values)) - begin
    before = begin + np.where(place == 0, 0, np.where(place % 2 == 1, 1, 2))
    return sums[2:] - sums[before], begins, np.repeat(np.arange(len(ends)), numbers), place


def split_runs(mask: np.ndarray, start: np.ndarray, stop: np.ndarray, height: int) -> Runs:
    """Split stretches of pixels, counted down the columns, at column ends; drop empty ones."""
    line, end_line = start // height, (stop - 1) // height
    if (end_line != line).any():  # an empty one ends a line earlier
        pieces = np.maximum(end_line - line + 1, 0) * (stop > start)
        index = np.repeat(np.arange(len(line)), pieces)
        nth = np.arange(len(index)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        mask, line = mask[index], line[index] + nth
        start = np.maximum(start[index], line * height)
        stop = np.minimum(stop[index], (line + 1) * height)
    return Runs(mask, line, start - line * height, stop - line * height)


def crop_masks(runs: Runs, rows: Axis, columns: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop masks, and paint each in its own box.

    Args:
        runs: runs of the original masks.
        rows: rows of the crop.
        columns: columns of the crop.

    Returns:
        Indices of the masks with a pixel in the crop, int64 ``(K,)``, ascending; their tight boxes,
        int64 ``(K, 4)``, xyxy in pixels of the crop; their pixels, uint8, 0 or 1, box after box,
        each column by column.
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
    # for each run, the offset of its box in the result, and the box's height
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
    """Crop a label map: uint8 ``(rows, columns)``, 0 where no run is.

    Args:
        runs: runs of the original, int ``(R, 4)``: row, first column, column after the last, label.
        rows: rows of the crop.
        columns: columns of the crop.
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
    """Paint disjoint stretches with ``values`` on a background of 0, uint8 ``(length,)``."""
    order = np.argsort(starts, kind='stable')  # fast if sorted already, as without flips
    edges = np.zeros(2 * len(order) + 2, np.int64)
    edges[1:-1:2], edges[2::2], edges[-1] = starts[order], stops[order], length
    painted = np.zeros(2 * len(order) + 1, np.uint8)
    painted[1::2] = values if isinstance(values, int) else values[order]
    return np.repeat(painted, np.diff(edges))
