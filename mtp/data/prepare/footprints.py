"""Rasterisation of building footprints: polygons in map coordinates -> label maps."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from mtp.data.decoding import naming_faults
from mtp.data.label_files import read_features
from mtp.files import UnusableFileError

# Tags of GeoTIFF: size of a pixel; a pixel and the map coordinates of its corner.
PIXEL_SCALE, TIEPOINT = 33550, 33922
GEO_KEYS, RASTER_TYPE, PIXEL_IS_POINT = 34735, 1025, 2  # directory of keys, a key, its value


def geotransform(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the map coordinates of a GeoTIFF's upper left corner, and the step to the next pixel.

    Returns:
        ``origin`` ``(2,)`` and ``step`` ``(2,)``, x and y in map units; the step in y is negative.

    Raises:
        UnusableFileError: the tags are missing.
    """
    with naming_faults(path, '{path} is missing or no GeoTIFF: {error}'), Image.open(path) as image:
        tags = image.tag_v2
        if PIXEL_SCALE not in tags or TIEPOINT not in tags:
            raise UnusableFileError(
                f'{path} does not tell where it lies: it lacks the tags '
                f'ModelPixelScale and ModelTiepoint of GeoTIFF'
            )
        step = np.array(tags[PIXEL_SCALE][:2]) * (1, -1)
        keys = np.array(tags.get(GEO_KEYS, ()), int).reshape(-1, 4)[1:]
    column_row, place = np.array(tags[TIEPOINT][:2]), np.array(tags[TIEPOINT][3:5])
    if [RASTER_TYPE, PIXEL_IS_POINT] in keys[:, [0, 3]].tolist():
        column_row = column_row + 0.5  # the place is that of the pixel's centre
    return place - column_row * step, step


def burn(
    path: Path,
    transform: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
) -> np.ndarray:
    """Rasterise footprints: uint8 ``(H, W)``, 1 where a pixel's centre is inside one, else 0.

    Args:
        path: geojson file, in the map coordinates of the image.
        transform: origin and step of the image, from :func:`geotransform`.
        shape: height and width of the image in pixels.

    Raises:
        ValueError: the file is not a geojson of polygons, or all of them are outside the image.
    """
    labels = np.zeros(shape, np.uint8)
    origin, step = transform
    polygons = [
        shapely.transform(polygon, lambda points: (points - origin) / step)
        for polygon in _polygons(path)
    ]
    frame = shapely.box(0, 0, shape[1], shape[0])
    inside = [polygon for polygon in polygons if polygon.intersects(frame)]
    if polygons and not inside:
        raise ValueError(
            f'{path}: all {len(polygons)} footprints lie outside the image: they '
            'belong to another one, or use other coordinates'
        )
    for polygon in inside:
        x1, y1, x2, y2 = np.array(polygon.bounds)
        rows = slice(max(0, int(y1)), min(shape[0], int(np.ceil(y2))))
        columns = slice(max(0, int(x1)), min(shape[1], int(np.ceil(x2))))
        y, x = np.mgrid[rows, columns] + 0.5
        labels[rows, columns] |= shapely.contains_xy(polygon, x, y)
    return labels


def _polygons(path: Path) -> Iterator[shapely.Geometry]:
    for number, feature in enumerate(read_features(path), 1):
        try:
            # a building without a footprint has a null geometry, or a polygon without points
            if feature['geometry'] and feature['geometry']['coordinates']:
                geometry = shapely.make_valid(
                    shapely.force_2d(shapely.from_geojson(json.dumps(feature['geometry'])))
                )
                if not geometry.is_empty:
                    if not np.isfinite(geometry.bounds).all():
                        raise ValueError('its coordinates are not all finite')
                    yield geometry
        except (KeyError, TypeError, ValueError, RecursionError, shapely.GEOSException) as error:
            raise ValueError(f'{path}, feature {number}: {error!r}') from error
