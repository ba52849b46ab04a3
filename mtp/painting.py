"""Colours, outlines and names on a picture, uint8 RGB ``(H, W, 3)``."""

from typing import Any

import cv2
import numpy as np

FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
WHITE, INK = (255, 255, 255), (30, 30, 30)

Colour = tuple[int, int, int]


def shade(tile: np.ndarray, mask: np.ndarray, colour: Colour, strength: float) -> None:
    """Lay a colour over a tile, uint8 RGB, where a mask is true; a strength of 1 hides the tile."""
    tile[mask] = (1 - strength) * tile[mask] + strength * np.array(colour)


def outline(tile: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    """Draw a polygon, corners int ``(N, 2)`` in pixels."""
    # dark colours of a palette show on a dark ground through the pale line around them
    cv2.polylines(tile, [corners], True, WHITE, 3, cv2.LINE_AA)
    cv2.polylines(tile, [corners], True, colour, 2, cv2.LINE_AA)


def write_names(tile: np.ndarray, content: Any, places: np.ndarray, meta: dict) -> None:
    """Write the class and score of objects on a plate above each place, inside the tile.

    Args:
        tile: uint8 RGB.
        content: ``InstanceData`` with ``labels`` and, if predicted, ``scores``.
        places: int ``(N, 2)``, x and y in pixels.
        meta: ``classes`` and ``palette`` (RGB per class).
    """
    scores = content.scores.tolist() if 'scores' in content else [None] * len(content)
    for label, score, (x, y) in zip(content.labels.tolist(), scores, places.tolist()):
        text = meta['classes'][label] + ('' if score is None else f' {score:.2f}')
        (width, height), _ = cv2.getTextSize(text, FONT, FONT_SIZE, 1)
        x = max(0, min(x, tile.shape[1] - width - 4))
        y = max(height + 5, min(y, tile.shape[0]))
        colour = meta['palette'][label]
        cv2.rectangle(tile, (x, y - height - 5), (x + width + 4, y), colour, cv2.FILLED)
        write(tile, text, (x + 2, y - 3), _readable_on(colour))


def write(canvas: np.ndarray, text: str, place: tuple[int, int], colour: Colour) -> None:
    """Write a line of text; ``place`` is its lower left corner."""
    cv2.putText(canvas, text, place, FONT, FONT_SIZE, colour, 1, cv2.LINE_AA)


def _readable_on(colour: Colour) -> Colour:
    return INK if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else WHITE
