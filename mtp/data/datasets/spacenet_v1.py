"""SpaceNet 1: buildings in Rio de Janeiro."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mtp.data.datasets.base import DataSet, Split
from mtp.data.decoding import read_stored
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.footprints import PIXEL_SCALE, TIEPOINT, burn, geotransform
from mtp.data.prepare.images import deal, images_in, write_png
from mtp.data.synthetic.shapes import BUILDINGS, make_ground, place

# The paper divides the 6940 labelled images at random, 5000 for training, without naming them.
SHARES = dict(train=5000 / 6940, val=1940 / 6940)


def prepare(src: Path, dst: Path) -> Report:
    """Write ``{train,val}/{images,labels}/*.png``.

    A label is 1 where the pixel's centre is inside a building's footprint, else 0.
    """
    report = Report()
    images = images_in(folder(src, '3band'), report)
    images = {stem.removeprefix('3band_'): path for stem, path in images.items()}
    where = folder(src, 'geojson', 'vectordata/geojson')
    footprints = {path.stem.removeprefix('Geo_'): path for path in where.glob('*.geojson')}
    report.bad += [
        f'{footprints[name]}: footprints without an image'
        for name in sorted(set(footprints) - set(images))
    ]
    splits = deal(images, SHARES)
    for split in SHARES:
        items = [
            (images[name], footprints.get(name), dst / split)
            for name in images
            if splits[name] == split
        ]
        process(_rasterise, items, f'{split} images', report)
    return report


def _rasterise(item: tuple[Path, Path | None, Path]) -> None:
    image, footprints, target = item
    label_target = target / 'labels' / f'{image.stem}.png'
    if label_target.is_file():
        return
    if footprints is None:
        raise ValueError('no file of footprints belongs to it')
    pixels = read_stored(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(
            f'{image} holds {pixels.dtype} of shape {pixels.shape}: the images of 3 '
            'bands and 8 bits are expected'
        )
    labels = burn(footprints, geotransform(image), pixels.shape[:2])
    write_png(target / 'images' / f'{image.stem}.png', pixels)
    write_png(label_target, labels)


def synthesise(root: str | Path, seed: int = 0) -> Path:
    """Write eight GeoTIFFs of 203 x 219 pixels (original: 406 x 438) with their footprints."""
    root, rng = Path(root), np.random.default_rng(seed)
    (root / '3band').mkdir(parents=True, exist_ok=True)
    (root / 'geojson').mkdir(exist_ok=True)
    height, width, shapes = 203, 219, BUILDINGS[:2]
    for number in range(1, 9):
        image = make_ground(rng, width)
        origin, step = np.array((-43.6 + number / 100, -22.9)), np.array((4.5e-6, -4.5e-6))
        features = []
        for index, placement in place(shapes, rng, height):
            shapes[index].draw(image, placement, tint=rng.uniform(-15, 15, 3))
            ring = placement.to_pixels(shapes[index].parts[0][0]) * step + origin
            ring = [[*point, 0.0] for point in (*ring.tolist(), ring[0].tolist())]
            features.append(
                dict(
                    type='Feature',
                    properties=dict(HGIS_OBJ='L4'),
                    geometry=dict(type='Polygon', coordinates=[ring]),
                )
            )
        pixels = np.clip(image[:height], 0, 255).astype(np.uint8)
        Image.fromarray(pixels[..., ::-1]).save(
            root / '3band' / f'3band_AOI_1_RIO_img{number}.tif',
            tiffinfo={
                PIXEL_SCALE: (*np.abs(step).tolist(), 0.0),
                TIEPOINT: (0.0, 0.0, 0.0, *origin.tolist(), 0.0),
            },
        )
        (root / 'geojson' / f'Geo_AOI_1_RIO_img{number}.geojson').write_text(
            json.dumps(dict(type='FeatureCollection', features=features))
        )
    return root


DATASET = DataSet(
    title='SpaceNet 1 (Rio de Janeiro)',
    task='segmentation',
    classes=('background', 'building'),
    palette=((255, 255, 255), (255, 0, 0)),
    source='SpaceNet on AWS Open Data: SN1_buildings, the training archives of the 3-band images '
    'and of the geojson',
    licence='CC BY-SA 4.0',
    size='6940 images of about 438 x 406 px, 0.5 m; divided 5000 / 1940 at random, by a fixed seed '
    "(the paper's own division is not published)",
    layout='3band/3band_AOI_1_RIO_img*.tif and geojson/Geo_AOI_1_RIO_img*.geojson (or '
    'vectordata/geojson/)',
    citation='A. Van Etten, D. Lindenbaum, T. M. Bacastow: SpaceNet: A Remote Sensing Dataset and '
    'Challenge Series. arXiv:1807.01232, 2018',
    splits=tuple(Split(split, f'{split}/images', f'{split}/labels') for split in SHARES),
    prepare=prepare,
    synthesise=synthesise,
)
