"""Places on the map: pixels to coordinates, angles and areas of what is found there."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from mtp.data.bands import import_rasterio

WGS84 = 'EPSG:4326'
_PIXELS = 'pixels, y downwards'


@dataclass(frozen=True)
class Place:
    """Place of an image on the map.

    Attributes:
        transform: affine transform from pixels to map coordinates, ``(a, b, c, d, e, f)``:
            x = a u + b v + c, y = d u + e v + f; (0, 0) is the outer corner of the first pixel.
        crs: coordinate reference system, as rasterio takes it.
        size: height and width of the image in pixels.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str
    size: tuple[int, int]

    def to_map(self, points: np.ndarray) -> np.ndarray:
        """Return the map coordinates of points ``(N, 2)`` in pixels."""
        matrix = np.array(self.transform).reshape(2, 3)
        return points @ matrix[:, :2].T + matrix[:, 2]

    def resized(self, size: tuple[int, int]) -> 'Place':
        """Return the place of the same ground in an image of another height and width."""
        a, b, c, d, e, f = self.transform
        across, down = self.size[1] / size[1], self.size[0] / size[0]
        return Place((a * across, b * down, c, d * across, e * down, f), self.crs, size)

    @property
    def is_geographic(self) -> bool:
        """Whether the coordinates are degrees."""
        return bool(_crs(self.crs).is_geographic)

    @property
    def metres(self) -> float:
        """Metres of a unit of a projected coordinate reference system."""
        return float(_crs(self.crs).linear_units_factor[1])

    def areas(self, shapes: Iterable[shapely.Geometry]) -> np.ndarray:
        """Return the areas of shapes in pixels, in square metres; geodesic if in degrees."""
        shapes = np.array(list(shapes), object)
        on_map = shapely.transform(shapes, self.to_map)
        if not self.is_geographic:
            return shapely.area(on_map) * self.metres**2
        height, width = self.size
        ((x, y),) = self.to_map(np.array([(width / 2, height / 2)]))
        # an ellipsoidal projection of equal areas: exact but for the curvature of edges
        equal = f'+proj=laea +lat_0={y} +lon_0={x} +ellps=WGS84 +units=m'
        return shapely.area(shapely.transform(on_map, lambda p: move(p, self.crs, equal)))

    def angles(self, corners: np.ndarray) -> np.ndarray:
        """Return the directions of the long sides of boxes, degrees clockwise from grid north.

        Args:
            corners: corners of N boxes in turn, in pixels, ``(N, 4, 2)``.

        Returns:
            ndarray: angles ``(N,)``, from 0 to below 180. A degree of longitude counts as long as
            it is on the ground.
        """
        on_map = self.to_map(corners.reshape(-1, 2)).reshape(-1, 4, 2)
        sides = np.stack([on_map[:, 1] - on_map[:, 0], on_map[:, 2] - on_map[:, 1]], 1)
        if self.is_geographic:
            sides[..., 0] *= np.cos(np.radians(on_map[..., 1].mean(1)))[:, None]
        longest = np.linalg.norm(sides, axis=2).argmax(1)
        x, y = sides[np.arange(len(sides)), longest].T
        degrees = np.degrees(np.arctan2(x, y)).round(6) % 180
        return degrees


@dataclass(frozen=True)
class Feature:
    """What is found at a place.

    Attributes:
        shape: polygon in pixels of the image.
        properties: name -> plain value.
        corners: corners of a box in turn, in pixels, ``(4, 2)``; None if it is no box.
    """

    shape: shapely.Geometry
    properties: dict[str, Any]
    corners: np.ndarray | None = None


def placed(
    features: Iterable[Feature], place: Place | None, crs: str | None
) -> Iterator[tuple[shapely.Geometry, dict[str, Any]]]:
    """Yield polygons in a coordinate reference system, with ``angle`` and ``area_m2`` added.

    Args:
        features: what is found.
        place: place of the image; None without one, for pixels and empty ``angle`` and ``area_m2``.
        crs: coordinate reference system of the polygons; None for the place's.
    """
    features = list(features)
    if place is None:
        for each in features:
            yield each.shape, each.properties | dict(angle=None, area_m2=None)
        return
    areas = place.areas([each.shape for each in features])
    boxes = [i for i, each in enumerate(features) if each.corners is not None]
    angles: dict[int, float] = {}
    if boxes:
        corners = np.stack([features[i].corners for i in boxes])  # type: ignore[misc]  # not None
        angles = dict(zip(boxes, place.angles(corners).tolist()))
    for i, each in enumerate(features):
        shape = shapely.transform(each.shape, place.to_map)
        if crs is not None and crs != place.crs:
            shape = shapely.transform(shape, lambda p: move(p, place.crs, crs))
        angle = angles.get(i)
        yield (
            shape,
            each.properties
            | dict(
                angle=None if angle is None else round(angle, 2), area_m2=round(float(areas[i]), 3)
            ),
        )


def collection(
    features: Iterable[Feature], place: Place | None, crs: str | None = WGS84
) -> dict[str, Any]:
    """Return a GeoJSON ``FeatureCollection`` with counter-clockwise outer rings.

    Args:
        features: what is found.
        place: place of the image; None without one, for pixels.
        crs: coordinate reference system; None for the place's, which the file then names.
    """
    entries = [
        dict(
            type='Feature',
            properties=properties,
            geometry=shapely.geometry.mapping(_oriented(shape)),
        )
        for shape, properties in placed(features, place, crs)
    ]
    content: dict[str, Any] = dict(type='FeatureCollection')
    if place is None:
        content['coordinates'] = _PIXELS
    elif crs != WGS84:
        content['crs'] = dict(type='name', properties=dict(name=urn(crs or place.crs)))
    return content | dict(features=entries)


def _oriented(shape: shapely.Geometry) -> shapely.Geometry:
    """Return a polygon, or several, whose outer rings are counter-clockwise."""
    parts = [shapely.geometry.polygon.orient(part) for part in shapely.get_parts(shape)]
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)


def urn(crs: str) -> str:
    """Return the name of a coordinate reference system as GeoJSON has it."""
    code = _crs(crs).to_epsg()
    return crs if code is None else f'urn:ogc:def:crs:EPSG::{code}'


def move(points: np.ndarray, source: str, target: str) -> np.ndarray:
    """Return points ``(N, 2)`` in another coordinate reference system; x or longitude is first."""
    from rasterio.warp import transform

    return np.stack(transform(source, target, *points.T), 1)


def _crs(name: str) -> Any:
    return import_rasterio('places on the map are computed').crs.CRS.from_user_input(name)
