"""Semantic segmentation: LoveDA and SpaceNet V1."""
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from mtp.data.facts.scenes import SCENES
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.images import copy_image, deal, images_in, read_image, read_rgb, write_png
from mtp.files import whole

# The paper divides the 6940 labelled images at random, 5000 for training; which ones it does not
# tell.
SPACENET_SHARES = dict(train=5000 / 6940, val=1940 / 6940)
# Tags of GeoTIFF: size of a pixel; a pixel and the point on the map where its corner lies.
PIXEL_SCALE, TIEPOINT = 33550, 33922


def loveda(src: Path, dst: Path) -> Report:
    """``{Train,Val,Test}/{Urban,Rural}/{images_png,masks_png}`` -> ``trainval``, ``test``.

    Below them ``images`` and, but for the test images, which have none, ``labels``. Label files
    keep their values: 0 is not labelled, 1 to 7 are the classes; configs shift them by one as
    they are loaded (mmseg's ``reduce_zero_label``).
    """
    report = Report()
    for split in ('Train', 'Val', 'Test'):
        images, masks = {}, {}
        for area in ('Urban', 'Rural'):
            where = folder(folder(src, split), area)
            images |= images_in(folder(where, 'images_png'), report)
            if split != 'Test':
                masks |= images_in(folder(where, 'masks_png'), report)
        if split == 'Test':
            items = [(path, dst / 'test' / 'images' / path.name) for path in images.values()]
            process(copy_image, items, 'test images', report, _source)
            continue
        report.bad += [f'{masks[name]}: a label without an image'
                       for name in sorted(set(masks) - set(images))]
        items = [(path, masks.get(name), dst / 'trainval') for name, path in images.items()]
        process(partial(_copy_labelled, len(SCENES['loveda'].classes)), items,
                f'{split.lower()} images', report, _source)
    return report


def _copy_labelled(num_classes: int, item: tuple[Path, Path | None, Path]) -> None:
    image, mask, target = item
    label_target = target / 'labels' / f'{image.stem}.png'
    if label_target.is_file():
        return
    if mask is None:
        raise ValueError(f'no label of this name in {image.parents[1] / "masks_png"}')
    pixels, labels = read_rgb(image), read_image(mask)
    if labels.shape != pixels.shape[:2]:
        raise ValueError(f'{mask} has shape {labels.shape}, the image {pixels.shape[:2]}')
    if labels.max() > num_classes:
        raise ValueError(f'{mask} holds the value {labels.max()}: known are 0 (not labelled) and '
                         f'1 to {num_classes}')
    copy_image((image, target / 'images' / image.name))
    with whole(label_target) as unfinished:
        shutil.copyfile(mask, unfinished)


def spacenet_v1(src: Path, dst: Path) -> Report:
    """``3band/3band_*.tif``, ``geojson/Geo_*.geojson`` -> ``{train,val}/{images,labels}/*.png``.

    A label is 1 where the centre of the pixel lies in a building's footprint, else 0.
    """
    report = Report()
    images = images_in(folder(src, '3band'), report)
    images = {stem.removeprefix('3band_'): path for stem, path in images.items()}
    where = folder(src, 'geojson', 'vectordata/geojson')
    footprints = {path.stem.removeprefix('Geo_'): path for path in where.glob('*.geojson')}
    report.bad += [f'{footprints[name]}: footprints without an image'
                   for name in sorted(set(footprints) - set(images))]
    splits = deal(images, SPACENET_SHARES)
    for split in SPACENET_SHARES:
        items = [(images[name], footprints.get(name), dst / split)
                 for name in images if splits[name] == split]
        process(_rasterise, items, f'{split} images', report, _source)
    return report


def _rasterise(item: tuple[Path, Path | None, Path]) -> None:
    image, footprints, target = item
    label_target = target / 'labels' / f'{image.stem}.png'
    if label_target.is_file():
        return
    if footprints is None:
        raise ValueError('no file of footprints belongs to it')
    pixels = read_image(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(f'{image} holds {pixels.dtype} of shape {pixels.shape}: the images of 3 '
                         'bands and 8 bits are expected')
    labels = burn(footprints, geotransform(image), pixels.shape[:2])
    write_png(target / 'images' / f'{image.stem}.png', pixels)
    write_png(label_target, labels)


def geotransform(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where a GeoTIFF's upper left corner lies on the map, and the step to the next pixel.

    Returns:
        ``origin`` ``(2,)`` and ``step`` ``(2,)``, x and y in the units of the map; y falls.

    Raises:
        ValueError: the tags are missing.
    """
    with Image.open(path) as image:
        tags = image.tag_v2
        if PIXEL_SCALE not in tags or TIEPOINT not in tags:
            raise ValueError(f'{path} does not tell where it lies: it lacks the tags '
                             f'ModelPixelScale and ModelTiepoint of GeoTIFF')
        step = np.array(tags[PIXEL_SCALE][:2]) * (1, -1)
        column_row, place = np.array(tags[TIEPOINT][:2]), np.array(tags[TIEPOINT][3:5])
    return place - column_row * step, step


def burn(path: Path, transform: tuple[np.ndarray, np.ndarray], shape: tuple[int, int],
         ) -> np.ndarray:
    """Footprints -> uint8 ``(H, W)``, 1 where the centre of a pixel lies in one.

    Args:
        path: geojson, in the coordinates of the image.
        transform: of :func:`geotransform`.
        shape: height and width.

    Raises:
        ValueError: it is no geojson of polygons, or all of them lie outside the image.
    """
    labels = np.zeros(shape, np.uint8)
    origin, step = transform
    polygons = [shapely.transform(polygon, lambda points: (points - origin) / step)
                for polygon in _polygons(path)]
    frame = shapely.box(0, 0, shape[1], shape[0])
    inside = [polygon for polygon in polygons if polygon.intersects(frame)]
    if polygons and not inside:
        raise ValueError(f'{path}: all {len(polygons)} footprints lie outside the image: they '
                         'belong to another one, or use other coordinates')
    for polygon in inside:
        x1, y1, x2, y2 = np.array(polygon.bounds)
        rows = slice(max(0, int(y1)), min(shape[0], int(np.ceil(y2))))
        columns = slice(max(0, int(x1)), min(shape[1], int(np.ceil(x2))))
        y, x = np.mgrid[rows, columns] + 0.5
        labels[rows, columns] |= shapely.contains_xy(polygon, x, y)
    return labels


def _polygons(path: Path) -> Iterator[shapely.Geometry]:
    try:
        features = json.loads(path.read_text())['features']
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is no whole geojson: {error!r}') from error
    for number, feature in enumerate(features, 1):
        try:
            # a building without a footprint is written as null, or as a polygon without points
            if feature['geometry'] and feature['geometry']['coordinates']:
                geometry = shapely.make_valid(
                    shapely.force_2d(shapely.from_geojson(json.dumps(feature['geometry']))))
                if not geometry.is_empty:
                    yield geometry
        except (KeyError, TypeError, shapely.GEOSException) as error:
            raise ValueError(f'{path}, feature {number}: {error!r}') from error


def _source(item: tuple) -> Path:
    return item[0]


PREPARE = {'loveda': loveda, 'spacenet_v1': spacenet_v1}
