"""Objects that several tiles have found are kept once."""

import numpy as np
import pytest

from mtp.prediction.merging import merge

# A plane that a tile has cut at y = 728, and as the next tile saw it: 0.47 of the union is shared,
# and 0.76 of the smaller box.
CUT, FULL = (3221.6, 697.7, 3257.2, 728.0), (3225.5, 702.0, 3264.7, 740.5)
UPPER, LOWER = (3192, 504), (3192, 672)


@pytest.mark.parametrize(
    ('tiles', 'rule', 'kept'),
    [
        ((UPPER, LOWER), 'iou', [1]),
        ((UPPER, UPPER), 'iou', [1, 0]),  # two objects, as the head has judged
        ((UPPER, UPPER), 'ios', [1]),
    ],
)
def test_parts_are_of_two_tiles(tiles, rule, kept):
    boxes, scores = np.array([CUT, FULL], np.float32), np.array([0.57, 0.89], np.float32)
    labels = np.zeros(2, np.int64)
    assert merge(boxes, scores, labels, np.array(tiles), rule).tolist() == kept
    assert len(merge(boxes, scores, np.array([0, 1]), np.array(tiles), rule)) == 2


def test_a_dropped_part_drops_no_other():
    """A chain, each link of which is half of the next: the second goes, the third stays."""
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64)
    tiles = np.array([(0, 0), (8, 0), (16, 0)])
    assert merge(boxes, scores, labels, tiles, 'iou').tolist() == [0, 2]
