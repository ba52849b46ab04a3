"""Scenes that are labelled in part: polygons of the ground that is labelled."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely

from mtp.data.own.contents import Sample
from mtp.data.own.vector_labels import area_in, read_layer, read_scene
from mtp.data.tally import Tally
from mtp.files import UnusableFileError

OBJECTS = 'objects whose centre is outside of the area'
MIN_AREA = 1.0  # square pixels of a tile that must be inside


def within(
    samples: Sequence[Sample], path: Path, left_out: Counter[str]
) -> tuple[list[Sample], dict[Path, shapely.Geometry]]:
    """Leave out what lies outside an area.

    Args:
        samples: images with their labels, which have a place on the map.
        path: vector file of polygons.
        left_out: counts, which get the images and objects that are left out.

    Returns:
        tuple: images that the area meets, with the objects whose centre is inside, and for each the
        area in its pixels.

    Raises:
        UnusableFileError: the file is no vector file of polygons, an image has no place on the map,
            or the area meets none.
    """
    tally = Tally()
    layer = read_layer(path, None, tally, classes=False)
    left_out.update({f'--area: {reason}': len(p) for reason, p in tally.left_out.items()})
    kept, areas = [], {}
    for sample in samples:
        area = area_in(layer, read_scene(sample.image))
        if area.area < MIN_AREA:
            left_out['images outside of the area'] += 1
            continue
        objects = sample.objects
        if objects:
            centres = np.array([each.box.corners.mean(0) for each in objects])
            inside = shapely.intersects_xy(area, *centres.T)
            objects = tuple(each for each, held in zip(objects, inside) if held)
            left_out[OBJECTS] += int((~inside).sum())
        kept.append(replace(sample, objects=objects))
        areas[sample.image] = area
    if not kept:
        raise UnusableFileError(
            f'--area {path}: no image meets its {len(layer.names)} polygons: they belong to '
            f'others, or their coordinate reference system is not {layer.crs}, as the file says'
        )
    return kept, areas


def cut(
    area: shapely.Geometry | None, extent: tuple[int, int, int, int]
) -> tuple[bool, shapely.Geometry | None]:
    """Return whether a part of an image meets an area, and the area if its border cuts the part.

    Args:
        area: area in pixels of the image; None for all of it.
        extent: left, top, width and height of the part in pixels.
    """
    if area is None:
        return True, None
    x, y, width, height = extent
    frame = shapely.box(x, y, x + width, y + height)
    if area.covers(frame):
        return True, None
    inside = shapely.intersection(area, frame)
    return inside.area >= MIN_AREA, inside
