"""Tiles put together are the whole."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from mtp.prediction.blending import Blend
from mtp.prediction.tile_grid import Tiles

REACH = 4  # pixels on each side that an output depends on


def blended(image, kind, side=32, overlap=2 * REACH):
    """Filter a scene tile by tile."""
    tiles = Tiles(image.shape, side, overlap)
    blend = Blend(tiles, 1, kind)
    rows = []
    height, width = tiles.shape
    for number in range(len(tiles.tops)):
        blend.start_row(number)
        for top, left in tiles.row(number):
            tile = image[top : top + height, left : left + width]
            blend.add(left, filtered(tile)[None])
        rows.append(blend.finish_row())
    return np.concatenate(rows, 1)[0], len(tiles.tops) * len(tiles.lefts)


def filtered(image):
    """Sum the neighbours of each pixel, whole numbers; beyond the edge is 0."""
    size = 2 * REACH + 1
    summed = uniform_filter(image.astype(np.float64), size, mode='constant') * size**2
    return summed.round().astype(np.float32)


@pytest.mark.parametrize('length', range(65, 85))  # the stride, 24, divides none but one
def test_the_farthest_edge_gives_the_whole_to_the_last_digit(length):
    image = np.random.default_rng(length).integers(0, 99, (length, length + 7))
    found, number = blended(image, 'centre')
    assert number >= 9
    np.testing.assert_array_equal(found, filtered(image))


def test_cosine_weights_add_up_to_a_mean():
    image = np.random.default_rng(0).integers(0, 99, (90, 70))
    found, _ = blended(image, 'cosine', overlap=20)
    inside = np.s_[REACH:-REACH, REACH:-REACH]
    constant, _ = blended(np.ones_like(image), 'cosine', overlap=20)
    assert constant[inside].max() <= (2 * REACH + 1) ** 2 + 1e-3 and np.isfinite(found).all()
    # where one tile alone looks, it is the whole's value
    np.testing.assert_allclose(found[:9, :9], filtered(image)[:9, :9], rtol=1e-6)


def test_tiles_may_be_missing():
    """Without a tile in the middle, what its neighbours cover stays."""
    image = np.ones((90, 90))
    tiles = Tiles(image.shape, 32, 8)
    blend, rows = Blend(tiles, 1, 'cosine'), []
    for number in range(len(tiles.tops)):
        blend.start_row(number)
        for left in tiles.lefts:
            if number != 1 or not 0 < left < tiles.lefts[-1]:
                blend.add(left, np.ones((1, 32, 32), np.float32))
        rows.append(blend.finish_row())
    found = np.concatenate(rows, 1)[0]
    lost = np.zeros(image.shape, bool)
    lost[32 : tiles.tops[2], 32 : tiles.lefts[-1]] = True
    np.testing.assert_array_equal(np.isnan(found), lost)
    assert found[~lost] == pytest.approx(1, abs=1e-5)


def test_a_scene_smaller_than_a_tile_is_one_tile():
    image = np.arange(20 * 50).reshape(20, 50)
    found, number = blended(image, 'cosine')
    assert number == 2 and found.shape == image.shape
    assert Tiles((20, 20), 32, 8).shape == (20, 20)
