"""Detections of overlapping tiles, merged to those of a scene."""

import numpy as np
import shapely
import torch

from mtp.evaluation.tiles import corners_of, unsuppressed
from mtp.prediction.tile_grid import Tiles

# Share of an overlap beyond its middle that a tile still answers for. Without, 1 object of 100 at a
# border is lost, whose centre two tiles see on the other's side; with a quarter, objects at borders
# have two tries, and are found more often than elsewhere (tests/pasted_objects.py).
SLACK = 1 / 16
MAX_IOS = 0.5  # overlap over the smaller box above which the one of lower score is dropped


def responsible(tiles: Tiles, top: int, left: int, centres: np.ndarray) -> np.ndarray:
    """Return which objects a tile answers for, bool ``(N,)``.

    The neighbour sees those beyond the middle of the overlap more fully. A little more is allowed,
    since the same object is found a little apart in two tiles (:data:`SLACK`); then it is there
    twice, and merged.

    Args:
        tiles: tiles of the scene.
        top: upper edge of the tile, pixels.
        left: left edge of the tile, pixels.
        centres: centres of the objects in the scene, ``(N, 2)``, x and y in pixels.
    """
    first_y, first_x, last_y, last_x = tiles.owned(top, left)
    slack = SLACK * tiles.overlap
    x, y = centres.T
    return (
        (x >= first_x - slack)
        & (x < last_x + slack)
        & (y >= first_y - slack)
        & (y < last_y + slack)
    )


def merge(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, tiles: np.ndarray, rule: str
) -> np.ndarray:
    """Return the indices of the objects that are kept, by falling score.

    Args:
        boxes: boxes ``(N, 4)``, xyxy, or rotated ones ``(N, 5)``, pixels.
        scores: their scores ``(N,)``.
        labels: their classes ``(N,)``; objects of two classes do not suppress each other.
        tiles: left and top of the tile that each was found in, pixels, ``(N, 2)``.
        rule: ``'iou'``: overlap over union, as the heads suppress, and between objects of two tiles
            also overlap over the smaller box, since a tile may have cut one of them; or ``'ios'``:
            overlap over the smaller box between all.
    """
    if rule == 'iou':
        tensors = (torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels))
        order = unsuppressed(*tensors).numpy()
    else:
        order = np.argsort(-scores, kind='stable')
    shapes = polygons(boxes[order])
    areas, classes, tiles = shapely.area(shapes), labels[order], tiles[order]
    worse, better = shapely.STRtree(shapes).query(shapes, predicate='intersects')
    wanted = (better < worse) & (classes[better] == classes[worse])
    if rule == 'iou':
        wanted &= (tiles[better] != tiles[worse]).any(1)
    better, worse = better[wanted], worse[wanted]
    shared = shapely.area(shapely.intersection(shapes[better], shapes[worse]))
    high = shared > MAX_IOS * np.minimum(areas[better], areas[worse])
    pairs = sorted(zip(worse[high].tolist(), better[high].tolist()))
    kept = np.ones(len(order), bool)
    for lower, upper in pairs:  # by falling score: a dropped box drops no other
        kept[lower] &= not kept[upper]
    return order[kept]


def polygons(boxes: np.ndarray) -> np.ndarray:
    """Return boxes ``(N, 4)`` or ``(N, 5)`` as shapely's polygons ``(N,)``."""
    return shapely.polygons(corners_of(boxes.astype(float)))
