"""What is found in a changed image lies where it is in the image."""

import numpy as np
import pytest
from mmrotate.structures import RotatedBoxes

from mtp.evaluation.tiles import corners_of
from mtp.files import UnusableFileError
from mtp.prediction.views import View, views_of

SHAPE = (40, 60)


@pytest.mark.parametrize('view', views_of(('flip', 'rot90', 'scale')), ids=str)
def test_the_way_back(view):
    """A drawn box is found by its pixels in the view, and comes back to its place."""
    image = np.zeros((*SHAPE, 3), np.uint8)
    image[8:16, 16:40] = 200
    changed = view.apply(dict(img=image))['img']
    rows, columns = (np.flatnonzero((changed[..., 0] > 100).any(axis)) for axis in (1, 0))
    found = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    exact = 1e-5 if view.scale == 1 else 1.0
    np.testing.assert_allclose(view.boxes_back(found, SHAPE), [[16, 8, 40, 16]], atol=exact)
    x1, y1, x2, y2 = found[0]
    rotated = np.array([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0]], np.float32)
    corners = corners_of(view.boxes_back(rotated, SHAPE))[0]
    np.testing.assert_allclose(corners.min(0), (16, 8), atol=exact)
    np.testing.assert_allclose(corners.max(0), (40, 16), atol=exact)
    logits = changed[..., 0][None].astype(np.float32)
    back = view.map_back(logits, SHAPE)[0]
    assert back.shape == SHAPE and (np.abs(back - image[..., 0]) > 100).mean() < 0.03


def test_angles_come_back():
    """A slanted box is turned with its corners."""
    box = np.array([[20.0, 15, 16, 6, 0.4]], np.float32)
    height, width = SHAPE
    for view in views_of(('flip', 'rot90')):
        corners = corners_of(box)[0]
        x, y = corners.T
        x = width - x if view.mirrored else x
        sides = [height, width]
        for _ in range(view.turns):
            x, y = y, sides[1] - x  # counter-clockwise
            sides.reverse()
        centre = np.stack([x, y], 1).mean(0)
        angle = float(np.arctan2(y[1] - y[0], x[1] - x[0]))
        seen = np.array([[*centre, 16, 6, angle]], np.float32)
        back = view.boxes_back(seen, SHAPE)
        regular = RotatedBoxes(back).regularize_boxes('le90').numpy()
        np.testing.assert_allclose(regular, box, atol=1e-4)


def test_views_are_named():
    assert views_of(()) == [View()] and len(views_of(('flip',))) == 3
    assert len(views_of(('flip', 'rot90'))) == 8 and len(views_of(('rot90', 'scale'))) == 12
    with pytest.raises(UnusableFileError, match='did you mean rot90'):
        views_of(('rot9',))
