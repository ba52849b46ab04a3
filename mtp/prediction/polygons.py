"""Outlines of the areas of a label map."""

from collections.abc import Collection, Iterator

import numpy as np
import shapely

from mtp.files import UnusableFileError


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
    try:
        from rasterio.features import shapes
    except ImportError as error:
        raise UnusableFileError(
            'polygons of label maps need rasterio, which is not installed: pip install mtp[geo]'
        ) from error
    wanted = ~np.isin(labels, [*without, 255])
    for shape, value in shapes(labels, wanted):
        yield int(value), shapely.geometry.shape(shape)
