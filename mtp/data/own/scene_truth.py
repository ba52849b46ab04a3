"""Uncut labels of the scenes that an import cuts into tiles: ``<root>/scenes/<split>.json``.

The key ``classes`` has the names of the classes in label order, where there are objects; ``tasks``
the tasks of a pretraining that the scenes judge; ``scenes`` an entry for each scene of the split:

- ``name``: its name; that of a tile is ``<name>__<side>__<x>___<y>``,
- ``height`` and ``width`` in pixels,
- ``tiles``: its tiles in the split, ``[x, y, side]`` in pixels of the scene,
- ``objects``, of data with boxes: ``label`` from 0, ``corners`` (8 coordinates in pixels of the
  scene), ``rotated``: those of the rotated box, of objects that have both, and ``ignored``: neither
  missed nor found.

Label maps and change maps are not cut at the edge of a tile but for what lies beyond it: there the
tiles' own maps are the scene's.
"""

from collections.abc import Sequence

import numpy as np
import shapely

from mtp.data.own.contents import LabelledObject
from mtp.data.prepare.tiling import MIN_OBJECT


def scene_entry(
    name: str,
    size: tuple[int, int],
    tiles: Sequence[tuple[int, int, int]],
    objects: Sequence[LabelledObject] | None,
) -> dict:
    """Return the entry of a scene.

    Objects outside of all tiles are left out. An object of which the tiles together hold too
    little, as they hold only a block of the scene, is ignored, and so is a crowd.

    Args:
        name: name of the scene.
        size: its height and width in pixels.
        tiles: its tiles in the split: x, y, side, in pixels.
        objects: its objects; None for label maps.
    """
    height, width = size
    entry = dict(name=name, height=height, width=width, tiles=[list(tile) for tile in tiles])
    if objects is None:
        return entry
    shares = _shares(objects, size, tiles)
    return entry | dict(
        objects=[
            dict(
                label=each.label,
                corners=each.box.corners.reshape(-1).tolist(),
                ignored=each.crowd or share < MIN_OBJECT,
                **({} if each.rotated is None else dict(rotated=each.rotated.reshape(-1).tolist())),
            )
            for each, share in zip(objects, shares.tolist())
            if share > 0
        ]
    )


def _shares(
    objects: Sequence[LabelledObject],
    size: tuple[int, int],
    tiles: Sequence[tuple[int, int, int]],
) -> np.ndarray:
    """Return the share of each object's part in the scene that the tiles hold, 0..1 ``(N,)``."""
    corners = np.array([each.box.corners for each in objects]).reshape(-1, 4, 2)
    # corners in crossed order make two triangles
    parts = shapely.make_valid(shapely.polygons(corners))
    parts = shapely.intersection(parts, shapely.box(0, 0, size[1], size[0]))
    x, y, side = np.array(tiles).T
    held = shapely.union_all(shapely.box(x, y, x + side, y + side))
    return shapely.area(shapely.intersection(parts, held)) / np.maximum(shapely.area(parts), 1e-6)
