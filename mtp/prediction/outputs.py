"""Files of predictions: vectors, label maps, COCO json, DOTA text and pictures."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from mtp.files import UnusableFileError, json_text, whole, write_text
from mtp.painting import colour_of
from mtp.prediction.places import WGS84, Feature, Place, collection, placed
from mtp.prediction.results import Detections, Result
from mtp.sample_fields import IGNORED

VECTORS = ('geojson', 'gpkg')
OBJECTS = (*VECTORS, 'coco', 'dota')
PICTURE = 2048  # longer side of a picture of a scene, pixels
_TIME = '2000-01-01T00:00:00.000Z'  # in every GeoPackage, so that equal content is equal bytes
_BLOCK = 512  # of a label map in pixels


def write_vectors(
    features: Iterable[Feature], place: Place | None, path: Path, crs: str | None = None
) -> None:
    """Write polygons as GeoJSON or GeoPackage, by the suffix.

    Args:
        features: polygons in pixels with their properties.
        place: place on the map; None to write pixels.
        path: file to write.
        crs: coordinate reference system; None for WGS84 in a GeoJSON and the scene's in a
            GeoPackage.

    Raises:
        UnusableFileError: pyogrio is not installed, which GeoPackages need.
    """
    if path.suffix == '.geojson':
        write_text(path, json_text(collection(features, place, crs or WGS84)))
        return
    try:
        import pyogrio
    except ImportError as error:
        raise UnusableFileError(
            f'{path}: GeoPackages need pyogrio, which is not installed: pip install mtp[geo]'
        ) from error
    rows = list(placed(features, place, crs))
    names = list(dict.fromkeys(name for _, properties in rows for name in properties))
    names = names or ['class', 'score', 'tile', 'angle', 'area_m2']
    columns = [_column(name, [properties.get(name) for _, properties in rows]) for name in names]
    pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': _TIME})
    with whole(path) as unfinished:
        # a layer has one type
        several = any(shape.geom_type == 'MultiPolygon' for shape, _ in rows)
        pyogrio.raw.write(
            unfinished,
            np.array([shapely.to_wkb(shape) for shape, _ in rows], object),
            columns,
            names,
            geometry_type='MultiPolygon' if several else 'Polygon',
            promote_to_multi=several,
            crs=None if place is None else crs or place.crs,
            driver='GPKG',
            layer=path.stem,
        )


def _column(name: str, values: list) -> np.ndarray:
    if name in ('class', 'tile'):
        return np.array(values, object)
    return np.array([np.nan if value is None else value for value in values], float)


def write_objects(result: Detections, path: Path, crs: str | None = None) -> None:
    """Write objects: ``.geojson``, ``.gpkg``, COCO's ``.json``, or DOTA's ``.txt``."""
    if path.suffix in ('.geojson', '.gpkg'):
        write_vectors(result.features(), result.place, path, crs)
    elif path.suffix == '.txt':
        write_text(path, result.to_dota())
    else:
        write_text(path, json_text(coco_json([result])))


def coco_json(results: Sequence[Detections]) -> dict[str, Any]:
    """Return the content of a COCO json of images and what is found in them."""
    images: list[dict] = []
    annotations: list[dict] = []
    for number, result in enumerate(results):
        height, width = result.size
        images.append(dict(id=number, file_name=result.source, height=height, width=width))
        areas = shapely.area(result.shapes).tolist()
        for entry, area in zip(result.to_coco(number), areas):
            annotations.append(dict(entry, id=len(annotations), iscrowd=0, area=area))
    names = results[0].classes if results else ()
    categories = [dict(id=i, name=name) for i, name in enumerate(names)]
    return dict(images=images, annotations=annotations, categories=categories)


def write_map(
    rows: Iterable[np.ndarray],
    size: tuple[int, int],
    classes: Sequence[str],
    palette: Sequence,
    place: Place | None,
    path: Path,
) -> None:
    """Write a label map as a cloud-optimised GeoTIFF with a colour table; 255 is nodata.

    Args:
        rows: parts of the map from the top, uint8 ``(rows, W)``.
        size: height and width of the map in pixels.
        classes: class names in label order, kept as the tag ``classes``.
        palette: colour of each class, RGB; empty for mtp's own.
        place: place of the scene; None without one.
        path: file to write.
    """
    import rasterio
    from rasterio import Affine
    from rasterio.shutil import copy

    height, width = size
    meta = dict(classes=classes, palette=palette)
    colours = {label: (*colour_of(meta, label), 255) for label in range(len(classes))}
    georeference = {}
    if place is not None:
        georeference = dict(crs=place.crs, transform=Affine(*place.resized(size).transform))
    with whole(path) as unfinished:
        plain = unfinished.with_suffix('.plain.tif')
        try:
            with rasterio.open(
                plain,
                'w',
                'GTiff',
                width,
                height,
                1,
                dtype='uint8',
                nodata=IGNORED,
                tiled=True,
                blockxsize=_BLOCK,
                blockysize=_BLOCK,
                compress='deflate',
                BIGTIFF='IF_SAFER',
                **georeference,
            ) as file:
                top = 0
                for part in rows:
                    window = rasterio.windows.Window(0, top, width, len(part))
                    file.write(part, 1, window=window)
                    top += len(part)
                file.write_colormap(1, colours)
                file.update_tags(classes=json.dumps(list(classes)))
            copy(plain, unfinished, driver='COG', compress='deflate', overview_resampling='mode')
        finally:
            plain.unlink(missing_ok=True)


def polygons_of_map(
    path: Path, classes: Sequence[str], without: Collection[int]
) -> Iterator[Feature]:
    """Yield the connected areas of a label map on disk, in its pixels.

    Args:
        path: file of :func:`write_map`.
        classes: class names in label order.
        without: labels to leave out, such as the background.
    """
    import rasterio
    from rasterio.features import shapes

    with rasterio.open(path) as file:
        # of a file, they are on the map
        matrix = np.array((~file.transform)[:6]).reshape(2, 3)

        def to_pixels(points: np.ndarray) -> np.ndarray:
            return np.rint(points @ matrix[:, :2].T + matrix[:, 2])

        for shape, value in shapes(rasterio.band(file, 1)):
            label = int(value)
            if label != IGNORED and label not in without:
                polygon = shapely.transform(shapely.geometry.shape(shape), to_pixels)
                yield Feature(polygon, {'class': classes[label]})


def write_picture(result: Result, picture: np.ndarray, scale: float, path: Path) -> None:
    """Draw a prediction on a reduced picture of its scene.

    Args:
        result: objects of the scene, or the class of each pixel of the picture.
        picture: the scene, uint8 RGB ``(H, W, 3)``.
        scale: pixels of the picture on the side of a pixel of the scene.
        path: file to write, PNG.
    """
    if isinstance(result, Detections):
        boxes = result.boxes.copy()
        boxes[:, :4] *= scale
        outlines = result.outlines
        if outlines is not None:
            outlines = shapely.transform(outlines, lambda points: points * scale)
        result = replace(result, boxes=boxes, masks=None, outlines=outlines)
    replace(result, picture=lambda: picture, size=picture.shape[:2]).plot(path)
