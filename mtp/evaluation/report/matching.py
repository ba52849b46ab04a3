"""Which predicted objects are which true ones: greedy by score, at an IoU of 0.5."""

from dataclasses import dataclass

import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps

from mtp.evaluation.tables import SHOWN_SCORE
from mtp.ops import box_iou_rotated

IOU = 0.5
NOBODY, IGNORED_OBJECT = -1, -2  # instead of the index of a true object


@dataclass(frozen=True)
class ImageObjects:
    """N predicted and M true objects of an image.

    A box is xyxy in pixels, or (cx, cy, w, h, theta) in pixels and radians; float32.
    """

    boxes: np.ndarray  # (N, 4 or 5)
    scores: np.ndarray  # (N,), 0..1
    labels: np.ndarray  # (N,)
    true_boxes: np.ndarray  # (M, 4 or 5)
    true_labels: np.ndarray  # (M,)
    ignored: np.ndarray  # bool (M,): neither missed nor found


@dataclass(frozen=True)
class Matches:
    """Matches of an image's objects.

    Attributes:
        same: true object of its own class that each prediction finds, int ``(N,)``, or ``NOBODY``,
            or ``IGNORED_OBJECT`` for a prediction that counts neither as right nor as wrong.
        other: true object of another class, which nothing else finds, that a prediction of at least
            ``SHOWN_SCORE`` without one of its own lies on, int ``(N,)``, or ``NOBODY``.
    """

    same: np.ndarray
    other: np.ndarray


def match_objects(image: ImageObjects) -> Matches:
    """Match the objects of an image.

    By falling score, a prediction takes the free true object of its class that it overlaps most, if
    by ``IOU`` or more. A prediction without one that lies on an ignored object of its class (as
    COCO has it for upright boxes: by half of its own area) is left out.
    """
    number = len(image.boxes)
    same, other = np.full((2, number), NOBODY)
    if not number or not len(image.true_boxes):
        return Matches(same, other)
    overlaps = _overlaps(image.boxes, image.true_boxes, 'iou')
    of_class = image.labels[:, None] == image.true_labels
    free = ~image.ignored
    order = np.argsort(-image.scores, kind='stable')
    _take(np.where(of_class, overlaps, 0), order, free, same)
    if image.ignored.any():
        covered = overlaps
        if image.boxes.shape[1] == 4:
            covered = _overlaps(image.boxes, image.true_boxes, 'iof')
        on_ignored = ((covered >= IOU) & of_class & image.ignored).any(1)
        same[(same == NOBODY) & on_ignored] = IGNORED_OBJECT
    # what is found below the score from which predictions are shown is missed there
    found_below = same[(image.scores < SHOWN_SCORE) & (same >= 0)]
    free[found_below] = True
    left = order[(same[order] == NOBODY) & (image.scores[order] >= SHOWN_SCORE)]
    _take(np.where(of_class, 0, overlaps), left, free, other)
    return Matches(same, other)


def _take(overlaps: np.ndarray, order: np.ndarray, free: np.ndarray, taken: np.ndarray) -> None:
    """Let predictions in ``order`` take free true objects; ``free``, ``taken`` change in place."""
    for one in order[(overlaps[order] >= IOU).any(1)]:
        best = np.where(free, overlaps[one], 0).argmax()
        if free[best] and overlaps[one, best] >= IOU:
            taken[one], free[best] = best, False


def _overlaps(boxes: np.ndarray, true_boxes: np.ndarray, mode: str) -> np.ndarray:
    """Return overlaps ``(N, M)``, 0..1; mode ``'iof'``: of the area of the predictions."""
    pair = torch.from_numpy(boxes), torch.from_numpy(true_boxes)
    compare = box_iou_rotated if boxes.shape[1] == 5 else bbox_overlaps
    return compare(*pair, mode=mode).numpy()
