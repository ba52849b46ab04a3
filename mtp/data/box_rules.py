"""Which boxes are left out, by one rule for all readers."""

from collections.abc import Sequence

import cv2
import numpy as np

# mmdet's readers leave out horizontal boxes with a side below one pixel. A rotated box loses its
# shape only where a side vanishes; corners beyond the rounding of 32-bit floats tell one from none.
MIN_SIDE = 1.0
MIN_ROTATED_SIDE = 0.1
_ROUNDING = 1e-6  # of sides that are differences of coordinates, pixels

NO_AREA = 'objects without area'
OUTSIDE = 'objects outside of their image'


def find_unusable(
    corners: np.ndarray, size: tuple[int, int] | None, rotated: bool
) -> list[str | None]:
    """Return for each box why it is left out; None for a box that is used.

    A box that is partly outside the image is used.

    Args:
        corners: corners of the boxes, ``(N, 4, 2)``, x and y in pixels, finite.
        size: height and width of the image in pixels; None if they are unknown.
        rotated: whether the boxes are rotated; else they are parallel to the image's sides.

    Returns:
        list: :data:`NO_AREA`, :data:`OUTSIDE` or None of each box.
    """
    corners = np.asarray(corners, np.float64).reshape(-1, 4, 2)
    low, high = corners.min(1), corners.max(1)
    if rotated:
        flat = ~_surely_wide(corners)  # a rectangle around each would take long for millions
        flat[flat] = np.array([_shorter_side(box) for box in corners[flat]]) < MIN_ROTATED_SIDE
    else:
        flat = ((high - low) < MIN_SIDE - _ROUNDING).any(1)
    outside = np.zeros(len(corners), bool)
    if size is not None:
        outside = (high <= 0).any(1) | (low >= np.array(size[::-1])).any(1)
    return [NO_AREA if f else OUTSIDE if o else None for f, o in zip(flat, outside)]


def _surely_wide(corners: np.ndarray) -> np.ndarray:
    """Return whether boxes have an area for sure, bool ``(N,)``.

    The area of four corners is at most that of the rectangle around them, whose longer side is at
    most the diagonal of their extent.
    """
    x, y = np.moveaxis(corners - corners[:, :1], -1, 0)
    area = np.abs((x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1)) / 2
    diagonal = np.hypot(*np.moveaxis(np.ptp(corners, axis=1), -1, 0))
    return area > 2 * MIN_ROTATED_SIDE * diagonal


def _shorter_side(corners: np.ndarray) -> float:
    """Return the shorter side of the smallest rectangle around four corners, in pixels."""
    # relative to a corner: 32-bit floats are exact enough near 0
    moved = (corners - corners[0]).astype(np.float32)
    return min(cv2.minAreaRect(moved)[1])


def check_order(low: Sequence[float], high: Sequence[float]) -> str | None:
    """Return what is wrong with the two corners of a horizontal box; None if nothing is.

    Exchanged corners look like a width and a height in place of the second corner, so that they
    have no one meaning.

    Args:
        low: upper left corner, x and y in pixels.
        high: lower right corner, x and y in pixels.
    """
    if high[0] >= low[0] and high[1] >= low[1]:
        return None
    return (
        f'its second corner ({high[0]:g}, {high[1]:g}) is left of or above its first '
        f'({low[0]:g}, {low[1]:g}): exchange them, or, if the second is a width and a height, '
        'add the first to it'
    )
