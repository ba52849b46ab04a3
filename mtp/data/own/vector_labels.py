"""Polygons of vector files (GeoJSON, shapefile, GeoPackage), placed in the pixels of scenes.

Files are read through pyogrio, coordinates are moved through rasterio: the extra ``mtp[geo]``.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from mtp.data.bands import opened
from mtp.data.tally import Tally
from mtp.files import UnusableFileError

MAX_CLASSES = 50  # distinct values of a column that can be the class without being asked for
NO_COLUMN = '-'  # in place of a column's name: one class, named after the file
POLYGONS = (3, 6)  # type numbers of shapely
_DECIMALS = 6  # of pixels: rounding that undoes the error of two transforms


@dataclass(frozen=True)
class Feature:
    """Polygon of a vector file in a scene.

    Attributes:
        place: file and number of the feature.
        name: name of its class.
        shape: polygon or several, clipped to the scene; x and y in pixels, 0 is the left edge of
            the first pixel.
        cut: whether a part outside the scene was clipped off.
    """

    place: str
    name: str
    shape: shapely.Geometry
    cut: bool


@dataclass
class Layer:
    """Polygons of a vector file.

    Attributes:
        path: the file.
        crs: coordinate reference system, as rasterio takes it.
        shapes: polygons in map coordinates, ``(N,)``.
        names: name of the class of each.
        numbers: number of each in the file, from 1 on.
        met: whether a scene holds a part of each, bool ``(N,)``.
    """

    path: Path
    crs: str
    shapes: np.ndarray
    names: list[str]
    numbers: list[int]
    met: np.ndarray

    def place(self, index: int) -> str:
        """Return the file and the number of a feature."""
        return f'{self.path}, feature {self.numbers[index]}'


@dataclass(frozen=True)
class Scene:
    """Place of a scene on the map.

    Attributes:
        path: file of the image.
        crs: coordinate reference system, of rasterio.
        to_map: affine transform from pixels to map coordinates; it has PixelIsPoint's half pixel.
        size: height and width in pixels.
    """

    path: Path
    crs: Any
    to_map: Any
    size: tuple[int, int]

    @property
    def frame(self) -> shapely.Geometry:
        """The scene's outline in pixels."""
        return shapely.box(0, 0, self.size[1], self.size[0])

    def pixels_of(self, layer: Layer) -> np.ndarray:
        """Return the polygons of a layer in pixels, ``(N,)``.

        Raises:
            UnusableFileError: the coordinates do not fit the layer's reference system.
        """
        from rasterio.errors import RasterioError
        from rasterio.warp import transform

        to_pixels = np.array((~self.to_map)[:6]).reshape(2, 3)

        def move(points: np.ndarray) -> np.ndarray:
            if self.crs != layer.crs:
                points = np.stack(transform(layer.crs, self.crs, *points.T), 1)
            moved = points @ to_pixels[:, :2].T + to_pixels[:, 2]
            return np.where(np.isfinite(moved), moved, -1e12).round(_DECIMALS)

        try:
            return shapely.transform(layer.shapes, move)
        except RasterioError as error:
            raise UnusableFileError(
                f'{layer.path}: its coordinates cannot be moved from {layer.crs} to '
                f'{self.crs}, of {self.path}: {error}. Correct its coordinate reference system'
            ) from error


def read_layer(path: Path, class_column: str | None, tally: Tally, classes: bool = True) -> Layer:
    """Read the polygons of a vector file with their classes.

    Args:
        path: the file.
        class_column: column of the class; ``'-'`` for one class named after the file; None for the
            only column of text with few values, or, without any column, one class.
        tally: counts, which get the features that are left out.
        classes: whether classes are wanted; else all have the name of the file.

    Raises:
        UnusableFileError: pyogrio is not installed; the file is damaged, has several layers, no
            reference system, points or lines, or no column that is clearly the class.
    """
    meta, geometries, columns = _read(path)
    if not meta['crs']:
        raise UnusableFileError(
            f'{path} names no coordinate reference system: add its .prj, or write it again with '
            'ogr2ogr -a_srs EPSG:NUMBER'
        )
    fields = dict(zip(meta['fields'].tolist(), columns))
    column = _class_column(path, class_column, fields) if classes else None
    layer = Layer(path, meta['crs'], np.empty(0, object), [], [], np.empty(0, bool))
    shapes = []
    for number, geometry in enumerate(geometries, 1):
        place = f'{path}, feature {number}'
        name = path.stem if column is None else _text(fields[column][number - 1])
        if geometry is None or geometry.is_empty:
            tally.leave_out('features without a geometry', place)
        elif shapely.get_type_id(geometry) not in POLYGONS:
            raise UnusableFileError(
                f'{place} is a {geometry.geom_type}: labels are polygons; give points and lines an '
                'extent (ogr2ogr -dialect sqlite -sql "SELECT ST_Buffer(geometry, ...), ..."), or '
                'take them out'
            )
        elif not np.isfinite(geometry.bounds).all():
            tally.leave_out('features with coordinates that are not finite', place)
        elif not name:
            tally.leave_out(f'features without a value of {column}', place)
        else:
            shapes.append(geometry)
            layer.names.append(name)
            layer.numbers.append(number)
    layer.shapes, layer.met = np.array(shapes, object), np.zeros(len(shapes), bool)
    return layer


def read_scene(path: Path) -> Scene:
    """Read where a scene lies.

    Raises:
        UnusableFileError: rasterio is not installed, or the file is damaged or not placed on a map.
    """
    with opened(path, ()) as source:
        if not source.crs or source.transform.is_identity:
            raise UnusableFileError(
                f'{path} has no place on the map (no coordinate reference system or geotransform), '
                'so that vector labels cannot be laid over it: give a GeoTIFF that has both '
                '(gdalwarp makes one of ground control points)'
            )
        return Scene(path, source.crs, source.transform, (source.height, source.width))


def place_features(layer: Layer, scene: Scene, tally: Tally) -> list[Feature]:
    """Return the features that a scene holds, clipped to it; mark them in the layer.

    Raises:
        UnusableFileError: the layer's coordinates do not fit its reference system.
    """
    features = []
    shapes = scene.pixels_of(layer)
    for index in np.flatnonzero(shapely.intersects(shapes, scene.frame)):
        shape = shapes[index]
        inside = shape.is_valid and scene.frame.covers(shape)  # stays as drawn, corner by corner
        clipped = shape if inside else _clip(shape, scene.frame)
        if clipped.is_empty:
            if not shape.is_valid:
                layer.met[index] = True
                tally.leave_out('features without an area', layer.place(index))
            continue  # touches the scene only
        layer.met[index] = True
        if not shape.is_valid:
            tally.note(f'{layer.place(index)} crosses itself: what its line encloses is taken')
        cut = not inside and not scene.frame.covers(shape)
        features.append(Feature(layer.place(index), layer.names[index], clipped, cut))
    return features


def area_in(layer: Layer, scene: Scene) -> shapely.Geometry:
    """Return what the polygons of a layer cover of a scene, in pixels; empty for nothing.

    Raises:
        UnusableFileError: the layer's coordinates do not fit its reference system.
    """
    shapes = scene.pixels_of(layer)
    met = np.flatnonzero(shapely.intersects(shapes, scene.frame))
    layer.met[met] = True
    return _clip(shapely.union_all(shapely.make_valid(shapes[met])), scene.frame)


def outlines(shape: shapely.Geometry) -> list[list[float]]:
    """Return a shape as polygons of a COCO json: x1, y1, x2, y2, ... each.

    A hole is reached over a seam, there and back, which COCO's masks do not show.
    """
    polygons = []
    for polygon in shapely.get_parts(shape):
        start = polygon.exterior.coords[0]
        points = list(polygon.exterior.coords)
        for hole in polygon.interiors:
            points += [*hole.coords, start]
        # without holes, COCO closes the ring itself
        points = points if len(polygon.interiors) else points[:-1]
        polygons.append(np.array(points, float).reshape(-1).tolist())
    return polygons


def rotated_corners(shape: shapely.Geometry) -> np.ndarray:
    """Return the corners of a shape of four corners as drawn, else of the rectangle around it.

    Returns:
        Corners, float64 ``(4, 2)``, x and y in pixels.
    """
    points = shapely.get_coordinates(shape)
    if len(points) != 5:
        points = shapely.get_coordinates(shapely.minimum_rotated_rectangle(shape))
    return points[:4]


def _read(path: Path) -> tuple[dict, np.ndarray, list[np.ndarray]]:
    """Return what pyogrio says of a file, its geometries and its columns."""
    try:
        import pyogrio
    except ImportError as error:
        raise UnusableFileError(
            f'{path}: vector files are read with pyogrio, which is not installed: pip install '
            'mtp[geo]'
        ) from error
    try:
        layers = [name for name, kind in pyogrio.list_layers(os.fspath(path)) if kind is not None]
        if len(layers) != 1:
            raise UnusableFileError(
                f'{path} has {len(layers)} layers of geometries'
                f'{": " if layers else ""}{", ".join(layers)}. One is read: ogr2ogr ONE.gpkg '
                f'{path.name} LAYER'
            )
        meta, _, wkb, columns = pyogrio.raw.read(os.fspath(path), layer=layers[0], force_2d=True)
        return meta, shapely.from_wkb(wkb), columns
    except UnusableFileError:
        raise
    except (pyogrio.errors.DataSourceError, shapely.GEOSException, ValueError) as error:
        raise UnusableFileError(f'{path} is missing or no vector file: {error}') from error


def _class_column(path: Path, given: str | None, fields: dict[str, np.ndarray]) -> str | None:
    """Return the name of the column of classes; None for one class of all features."""
    if given == NO_COLUMN or (given is None and not fields):
        return None
    kinds = {name: Counter(filter(None, map(_text, values))) for name, values in fields.items()}
    if given is not None:
        if given in fields:
            return given
        problem = f'no column {given!r}'
    else:
        fitting = [name for name, counts in kinds.items() if _is_class(fields[name], counts)]
        if len(fitting) == 1:
            return fitting[0]
        problem = f'{len(fitting) or "no"} columns of text with few values'
    shown = '; '.join(
        f'{name} ({len(counts):,} values: {", ".join(value[:20] for value in list(counts)[:3])})'
        for name, counts in kinds.items()
        if counts
    )
    raise UnusableFileError(
        f'{path}: {problem}: give --class-column NAME, or --class-column {NO_COLUMN} for one class '
        f'of the name {path.stem!r}. It has the columns {shown or "without values"}'
    )


def _is_class(values: np.ndarray, counts: Counter[str]) -> bool:
    """Return whether a column can be the class: text, with values that are shared by features."""
    text = all(value is None or isinstance(value, str) for value in values)
    return text and 0 < len(counts) <= min(MAX_CLASSES, max(2, len(values) // 2))


def _text(value: object) -> str:
    """Return a value of a column as the name of a class; empty for none."""
    if value is None or value != value:  # NaN
        return ''
    if isinstance(value, float | np.floating) and value == int(value):
        value = int(value)
    return str(value).strip()


def _clip(shape: shapely.Geometry, frame: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons of a shape that are inside a frame; empty if it has no area there."""
    clipped = shapely.intersection(shapely.make_valid(shape), frame)
    parts = [part for part in _flat(clipped) if part.geom_type == 'Polygon' and part.area > 0]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _flat(shape: shapely.Geometry) -> list[shapely.Geometry]:
    parts = shapely.get_parts(shape)
    return [each for part in parts for each in (_flat(part) if hasattr(part, 'geoms') else [part])]
