"""Drawing of colours, outlines and names on an image, uint8 RGB ``(H, W, 3)``."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
WHITE, INK = (255, 255, 255), (30, 30, 30)

# Distance in CIELAB from which two colours are told apart at a glance. Of many classes, colours
# that are half as far apart as possible are accepted.
_DISTANCE = 40

Colour = tuple[int, int, int]


def colour_of(meta: dict, label: int) -> Colour:
    """Return the colour of a class: that of the data set's palette, if its colours differ enough.

    Args:
        meta: ``classes`` and perhaps ``palette`` (RGB per class) of the data set.
        label: label of the class.
    """
    palette = meta.get('palette') or ()
    return _colours(tuple(map(tuple, palette)), len(meta['classes']))[label]


@functools.lru_cache
def _colours(palette: tuple[Colour, ...], number: int) -> tuple[Colour, ...]:
    distinct = distinct_colours(number)
    enough = min(_DISTANCE, _least_distance(distinct) / 2)
    if len(palette) >= number and _least_distance(palette[:number]) >= enough:
        return palette[:number]
    return distinct


def _least_distance(colours: Sequence[Colour]) -> float:
    lab = _lab(colours)
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    distance[np.diag_indices(len(lab))] = np.inf
    return float(distance.min())


@functools.lru_cache
def distinct_colours(number: int) -> tuple[Colour, ...]:
    """Return colours (RGB) that differ as much as possible from each other, from grey and black.

    Each is the one farthest in CIELAB from those before, so fewer are the first of many.
    """
    levels = np.linspace(0, 255, 12).round().astype(int).tolist()
    found = [(230, 25, 75)]
    candidates = list(itertools.product(levels, repeat=3))
    lab = _lab(candidates)
    vivid = (lab[:, 0] > 30) & (np.hypot(lab[:, 1], lab[:, 2]) > 25)
    candidates, lab = list(itertools.compress(candidates, vivid)), lab[vivid]
    nearest = np.full(len(lab), np.inf)
    while len(found) < number:
        nearest = np.minimum(nearest, np.linalg.norm(lab - _lab(found[-1:]), axis=-1))
        found.append(candidates[nearest.argmax()])
    return tuple(found)


def _lab(colours: Sequence[Colour]) -> np.ndarray:
    """Return colours in CIELAB ``(N, 3)``: lightness 0..100, then two axes of about -100..100."""
    pixels = np.array(colours, np.float32).reshape(1, -1, 3) / 255
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[0]


def shade(tile: np.ndarray, mask: np.ndarray, colour: Colour, strength: float) -> None:
    """Blend a colour into an image, uint8 RGB, where a mask is true; strength 1 hides the image."""
    tile[mask] = (1 - strength) * tile[mask] + strength * np.array(colour)


def outline(tile: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    """Draw a polygon with corners int ``(N, 2)`` in pixels."""
    # the white border makes dark colours of a palette visible on a dark image
    cv2.polylines(tile, [corners], True, WHITE, 3, cv2.LINE_AA)
    cv2.polylines(tile, [corners], True, colour, 2, cv2.LINE_AA)


def write_names(
    tile: np.ndarray, content: Any, places: np.ndarray, centres: np.ndarray, meta: dict
) -> None:
    """Write the class and score of objects on a filled box above each place, inside the image.

    Where objects crowd, names are left off: a name covers no other name and no other object's
    centre. Objects of higher scores, or else the later ones, come first.

    Args:
        tile: image to draw on, uint8 RGB; changed in place.
        content: ``InstanceData`` with ``labels`` and, if predicted, ``scores``.
        places: anchor points of the texts, int ``(N, 2)``, x and y in pixels.
        centres: centres of the objects ``(N, 2)``, x and y in pixels.
        meta: ``classes`` and ``palette`` (RGB per class).
    """
    labels = content.labels.tolist()
    order: Sequence[int] = range(len(labels))
    scores: list[float] = []
    if 'scores' in content:
        scores = content.scores.tolist()
        order = sorted(order, key=scores.__getitem__)
    taken: np.ndarray = np.zeros((0, 4), int)
    for i in reversed(order):
        text = meta['classes'][labels[i]] + (f' {scores[i]:.2f}' if scores else '')
        box = _text_box(tile, text, places[i])
        if _covers(box, taken, np.delete(centres, i, axis=0)):
            continue
        taken = np.append(taken, [box], axis=0)
        left, top, right, bottom = box
        colour = colour_of(meta, labels[i])
        cv2.rectangle(tile, (left, top), (right, bottom), colour, cv2.FILLED)
        write(tile, text, (left + 2, bottom - 3), _readable_on(colour))


def _text_box(tile: np.ndarray, text: str, place: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box of a text above a place, moved into the image: left, top, right, bottom."""
    (width, height), _ = cv2.getTextSize(text, FONT, FONT_SIZE, 1)
    left = max(0, min(int(place[0]), tile.shape[1] - width - 4))
    bottom = max(height + 5, min(int(place[1]), tile.shape[0]))
    return left, bottom - height - 5, left + width + 4, bottom


def _covers(box: tuple[int, int, int, int], taken: np.ndarray, centres: np.ndarray) -> bool:
    left, top, right, bottom = box
    overlaps = (
        (taken[:, 0] <= right)
        & (taken[:, 2] >= left)
        & (taken[:, 1] <= bottom)
        & (taken[:, 3] >= top)
    )
    x, y = centres.T
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    return bool(overlaps.any() or inside.any())


def write(canvas: np.ndarray, text: str, place: tuple[int, int], colour: Colour) -> None:
    """Write a line of text, with its lower left corner at ``place`` (x, y in pixels)."""
    cv2.putText(canvas, text, place, FONT, FONT_SIZE, colour, 1, cv2.LINE_AA)


def _readable_on(colour: Colour) -> Colour:
    return INK if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else WHITE
