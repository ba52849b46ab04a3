"""Drawing of colours, outlines and names on an image, uint8 RGB ``(H, W, 3)``."""

from typing import Any

import cv2
import numpy as np

FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
WHITE, INK = (255, 255, 255), (30, 30, 30)

Colour = tuple[int, int, int]


def shade(tile: np.ndarray, mask: np.ndarray, colour: Colour, strength: float) -> None:
    """Blend a colour into an image, uint8 RGB, where a mask is true; strength 1 hides the image."""
    tile[mask] = (1 - strength) * tile[mask] + strength * np.array(colour)


def outline(tile: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    """Draw a polygon with corners int ``(N, 2)`` in pixels."""
    # the white border makes dark colours of a palette visible on a dark image
    cv2.polylines(tile, [corners], True, WHITE, 3, cv2.LINE_AA)
    cv2.polylines(tile, [corners], True, colour, 2, cv2.LINE_AA)


def write_names(tile: np.ndarray, content: Any, places: np.ndarray, meta: dict) -> None:
    """Write the class and score of objects on a filled box above each place, inside the image.

    Args:
        tile: image to draw on, uint8 RGB; changed in place.
        content: ``InstanceData`` with ``labels`` and, if predicted, ``scores``.
        places: anchor points of the texts, int ``(N, 2)``, x and y in pixels.
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
    """Write a line of text, with its lower left corner at ``place`` (x, y in pixels)."""
    cv2.putText(canvas, text, place, FONT, FONT_SIZE, colour, 1, cv2.LINE_AA)


def _readable_on(colour: Colour) -> Colour:
    return INK if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else WHITE
