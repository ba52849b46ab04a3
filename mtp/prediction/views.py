"""Test-time augmentation: an image mirrored, turned and resized, and the way back."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import shapely

from mtp.files import UnusableFileError
from mtp.spelling import suggest

KINDS = ('flip', 'rot90', 'scale')
SCALES = (0.8, 1.25)  # sizes beside the image's own, of ``scale``


@dataclass(frozen=True)
class View:
    """A changed image: mirrored from left to right, then turned, then resized.

    Attributes:
        mirrored: whether x is mirrored.
        turns: number of quarter turns, counter-clockwise, 0 to 3.
        scale: factor of its sides.
    """

    mirrored: bool = False
    turns: int = 0
    scale: float = 1.0

    def apply(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record of the changed image."""
        image = record['img']
        image = np.rot90(image[:, ::-1] if self.mirrored else image, self.turns)
        if self.scale != 1:
            height, width = (max(1, round(side * self.scale)) for side in image.shape[:2])
            image = cv2.resize(np.ascontiguousarray(image), (width, height))
        image = np.ascontiguousarray(image)
        return {**record, 'img': image, 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2]}

    def map_back(self, logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return logits ``(K, h, w)`` of the changed image at the pixels of the image.

        Args:
            logits: float32 ``(K, h, w)``.
            shape: height and width of the image in pixels.
        """
        turned = shape if self.turns % 2 == 0 else shape[::-1]
        if logits.shape[1:] != turned:
            size = turned[::-1]
            logits = np.stack([cv2.resize(channel, size) for channel in logits])
        logits = np.rot90(logits, -self.turns, (1, 2))
        return np.ascontiguousarray(logits[..., ::-1] if self.mirrored else logits)

    def boxes_back(self, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return boxes of the changed image in pixels of the image.

        Args:
            boxes: float32 ``(N, 4)``, xyxy, or ``(N, 5)``, rotated.
            shape: height and width of the image in pixels.
        """
        boxes = boxes.copy()
        ratio = self._ratio(shape)
        boxes[:, :2] /= ratio
        boxes[:, 2:4] /= ratio if boxes.shape[1] == 4 else np.sqrt(ratio.prod())
        if boxes.shape[1] == 5:
            boxes[:, :2] = self._points_back(boxes[:, :2], shape)
            boxes[:, 4] += self.turns * np.pi / 2
            if self.mirrored:
                boxes[:, 4] *= -1
            return boxes
        first, second = (self._points_back(part, shape) for part in (boxes[:, :2], boxes[:, 2:]))
        return np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1)

    def outlines_back(self, shapes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return polygons ``(N,)`` of the changed image in pixels of the image.

        Args:
            shapes: polygons in pixels.
            shape: height and width of the image in pixels.
        """
        return shapely.transform(shapes, lambda p: self._points_back(p / self._ratio(shape), shape))

    def _ratio(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the pixels along x and y of the changed image, over those of the turned one."""
        turned = np.array(shape if self.turns % 2 == 0 else shape[::-1])
        if self.scale == 1:
            return np.ones(2)
        return (np.maximum(1, np.rint(turned * self.scale)) / turned)[::-1]

    def _points_back(self, points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        height, width = shape if self.turns % 2 == 0 else shape[::-1]  # of the turned image
        x, y = points.T
        for _ in range(self.turns):
            # a quarter turn clockwise: the turned image's height becomes the width
            x, y = height - y, x
            height, width = width, height
        return np.stack([width - x if self.mirrored else x, y], 1)


def views_of(kinds: Sequence[str]) -> list[View]:
    """Return the views of some kinds of augmentation, the image itself first.

    Args:
        kinds: ``'flip'``: mirrored from left to right, and from top to bottom; ``'rot90'``: quarter
            turns; with ``'flip'``, all eight; ``'scale'``: each also at :data:`SCALES`.

    Raises:
        UnusableFileError: a kind is unknown.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UnusableFileError(
                f'--tta {kind}: unknown{suggest(kind, KINDS)}; there are {", ".join(KINDS)}'
            )
    turns = [(False, 0)]
    if 'rot90' in kinds:
        mirrors = (False, True) if 'flip' in kinds else (False,)
        turns = list(itertools.product(mirrors, range(4)))
    elif 'flip' in kinds:
        turns += [(True, 0), (True, 2)]
    scales = (1.0, *SCALES) if 'scale' in kinds else (1.0,)
    return [View(*turn, scale) for scale in scales for turn in turns]
