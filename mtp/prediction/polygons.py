"""Outlines of the areas of a label map, and of objects' masks."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import cv2
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


def mean_inside(shapes: Sequence[shapely.Geometry], rows: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean of a raster in each polygon, float64 ``(N,)``; NaN where it has no pixel.

    Args:
        shapes: N polygons in pixels that do not overlap.
        rows: parts of the raster from the top, ``(rows, W)``.

    Raises:
        UnusableFileError: rasterio is not installed.
    """
    rasterio = import_rasterio('polygons are laid over a raster')
    tree = shapely.STRtree(shapes)
    sums, counts = np.zeros(len(shapes) + 1), np.zeros(len(shapes) + 1)
    top = 0
    for part in rows:
        height, width = part.shape
        met = tree.query(shapely.box(0, top, width, top + height))
        if len(met):
            numbers = rasterio.features.rasterize(
                [(shapes[i], i + 1) for i in met.tolist()],
                part.shape,
                transform=rasterio.Affine.translation(0, top),
                dtype='int32',
            ).ravel()
            sums += np.bincount(numbers, part.ravel(), len(sums))
            counts += np.bincount(numbers, minlength=len(counts))
        top += height
    with np.errstate(invalid='ignore'):
        return sums[1:] / counts[1:]


def mask_outlines(masks: np.ndarray) -> np.ndarray:
    """Return the outline of each mask, along the edges of its pixels.

    Args:
        masks: bool ``(N, H, W)``.

    Returns:
        ndarray: polygons, of several parts where a mask has them, ``(N,)``; empty where it has no
        pixel.
    """
    found = np.empty(len(masks), object)
    for i, mask in enumerate(masks):
        # a run of pixels in a row begins and ends where the mask changes
        changes = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        y, begin = np.nonzero(changes == 1)
        end = np.nonzero(changes == -1)[1]
        found[i] = shapely.union_all(shapely.box(begin, y, end, y + 1)).simplify(0)
    return found


def filled(shapes: Iterable[shapely.Geometry], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels that polygons cover, about, to draw them: bool ``(H, W)``.

    Args:
        shapes: polygons in pixels.
        size: height and width of the picture in pixels.
    """
    area = np.zeros(size, np.uint8)
    for shape in shapes:
        rings = shapely.get_rings(shapely.get_parts(shape))
        corners = [np.rint(shapely.get_coordinates(ring)).astype(np.int32) for ring in rings]
        cv2.fillPoly(area, corners, 1)
    return area.astype(bool)


def pack(shapes: np.ndarray) -> dict[str, np.ndarray]:
    """Return geometries ``(N,)`` as arrays of plain numbers, for a file."""
    texts = [shapely.to_wkb(shape) for shape in shapes]
    lengths = np.array([len(text) for text in texts], np.int64)
    return dict(wkb=np.frombuffer(b''.join(texts), np.uint8), lengths=lengths)


def unpack(wkb: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the geometries ``(N,)`` of :func:`pack`."""
    content, ends = wkb.tobytes(), lengths.cumsum()
    texts = [content[end - length : end] for end, length in zip(ends, lengths)]
    return shapely.from_wkb(np.array(texts, object))
