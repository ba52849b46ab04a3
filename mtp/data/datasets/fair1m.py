"""FAIR1M-2.0: 37 classes of aircraft, ships, vehicles, courts and roads, rotated boxes."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mtp.data.datasets.base import TILES, DataSet
from mtp.data.formats.object_xml import read_fair1m
from mtp.data.prepare.base import Report, folder
from mtp.data.prepare.rotated_detection import RATES, cut_sources, find_sources
from mtp.data.prepare.tiling import Tiling
from mtp.data.samrs.subsets import SUBSETS
from mtp.data.samrs.synthesis import CLASSES
from mtp.data.synthetic.drawing import Drawn, draw, nest, write_image
from mtp.files import write_text

# `multi_scale` -> tiling. The overlap is not published; these are DOTA's, and half a tile.
TILINGS = {False: Tiling(800, 200), True: Tiling(800, 400, RATES)}


def prepare(src: Path, dst: Path, multi_scale: bool = False) -> Report:
    """Cut 800-pixel tiles: ``trainval/{images/*.png,annfiles/*.txt}``, ``test/images/*.png``.

    Labels become DOTA's text. Images of train and validation have the same names, so that the names
    of their tiles begin with ``train_`` or ``val_``. Test tiles keep the name that the server
    expects.
    """
    report = Report()
    train = src / 'train'
    parts = [part for part in sorted(train.glob('part*')) if part.is_dir()] or [train]
    sources = [
        source
        for part in parts
        for source in find_sources(
            folder(part, 'images'), folder(part, 'labelXml'), '.xml', 'train_', report
        )
    ]
    sources += find_sources(
        folder(src, 'validation/images'), folder(src, 'validation/labelXml'), '.xml', 'val_', report
    )
    tiling = TILINGS[multi_scale]
    cut_sources(sources, read_fair1m, DATASET.classes, tiling, dst / 'trainval', report)
    tests = find_sources(folder(src, 'test/images'), None, '', '', report)
    cut_sources(tests, read_fair1m, DATASET.classes, tiling, dst / 'test', report)
    return report


def synthesise(
    root: str | Path,
    num_train: int = 4,
    num_val: int = 2,
    num_test: int = 2,
    image_size: int = 1000,
    seed: int = 0,
) -> Path:
    """Write ``train/part{1,2}``, ``validation``, ``test`` (original: 16488, 8287, 18021 images).

    Images of ``train`` and ``validation`` have the same names; some objects exceed the image.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    # some of the publisher's class names have spaces instead of our hyphens
    shapes = {name.replace('-', ' '): shape for name, shape in CLASSES['fast'].items()}
    for where, numbers in (
        ('train/part1', range(0, num_train, 2)),
        ('train/part2', range(1, num_train, 2)),
        ('validation', range(num_val)),
        ('test', range(num_test)),
    ):
        for number in numbers:
            image, drawn = draw(rng, image_size, shapes, 20, (60, 160), beyond=10.0)
            write_image(root / where / 'images' / f'{number}.tif', image)
            if where != 'test':
                write_text(
                    root / where / 'labelXml' / f'{number}.xml',
                    _xml(f'{number}.tif', image_size, drawn),
                )
    return root


def _xml(name: str, size: int, drawn: Drawn[str]) -> str:
    root = ElementTree.Element('annotation')
    nest(
        root,
        source=dict(filename=name, origin='GF2/GF3'),
        research=dict(version='1.0', provider='FAIR1M', pluginname='FAIR1M'),
        size=dict(width=str(size), height=str(size), depth='3'),
    )
    objects = ElementTree.SubElement(root, 'objects')
    for label, corners in drawn:
        element = ElementTree.SubElement(objects, 'object')
        nest(
            element,
            coordinate='pixel',
            type='rectangle',
            description='None',
            possibleresult=dict(name=label),
        )
        points = ElementTree.SubElement(element, 'points')
        for x, y in (*corners, corners[0]):
            nest(points, point=f'{x:.6f},{y:.6f}')
    ElementTree.indent(root, '\t')
    return ElementTree.tostring(root, encoding='unicode')


DATASET = DataSet(
    title='FAIR1M-2.0',
    task='rotated_detection',
    classes=SUBSETS['fast'].classes,
    source='X. Sun et al., Aerospace Information Research Institute: FAIR1M on the Gaofen '
    'challenge site (registration), train, validation and test',
    licence='CC BY-NC-SA 3.0',
    size='42792 images of 600 to 10000 px, 0.3 to 0.8 m; 16488 / 8287 / 18021, trains on the first '
    'two; tiles of 800',
    layout='train/part{1,2}/{images/*.tif,labelXml/*.xml} (or train/ without parts), '
    'validation/{images,labelXml}, test/images',
    citation='X. Sun et al.: FAIR1M: A benchmark dataset for fine-grained object recognition in '
    'high-resolution remote sensing imagery. ISPRS Journal of Photogrammetry and Remote '
    'Sensing 184, 2022',
    splits=TILES,
    multi_scale=True,
    prepare=prepare,
    synthesise=synthesise,
)
