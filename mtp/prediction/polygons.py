"""Outlines of the areas of a label map."""

from collections.abc import Collection, Iterator

import numpy as np
import shapely

from mtp.data.bands import import_rasterio


def outlines(
    labels: np.ndarray, without: Collection[int]
) -> Iterator[tuple[int, shapely.Geometry]]:
    """Yield label and polygon, in pixels, of each connected area of a label map.

    Args:
        labels: label map, uint8 ``(H, W)``.
        without: labels to leave out; 255 always is.

    Raises:
        UnusableFileError: rasterio is not installed.
    """
    shapes = import_rasterio('polygons are made of label maps').features.shapes
    wanted = ~np.isin(labels, [*without, 255])
    for shape, value in shapes(labels, wanted):
        yield int(value), shapely.geometry.shape(shape)
