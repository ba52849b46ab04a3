"""Small detection sets made up, as their owners pack them.

Each function writes below a folder what ``tools/data/prepare.py`` reads; everything is a function
of the seed. Sizes are in pixels.
"""
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from mtp.data.rotated_labels import CORNER_TAGS
from mtp.data.samrs.synthesis import CLASSES, SHAPES, Placement, Shape, _ground
from mtp.files import write_text

# Owner's name of a class, or xView's type id -> shape.
XVIEW_SHAPES = {11: 'plane', 25: 'truck', 51: 'ship', 86: 'tank', 94: 'court'}

Drawn = list[tuple[object, np.ndarray]]  # class, corners (4, 2) in pixels


def draw(rng: np.random.Generator, size: int, classes: Mapping[object, str], count: int,
         lengths: tuple[float, float], beyond: float = 0.0) -> tuple[np.ndarray, Drawn]:
    """An image with objects that do not touch.

    Args:
        rng: source of randomness.
        size: side of the image.
        classes: class -> name of its shape.
        count: of objects; fewer where they do not fit.
        lengths: least and greatest long side of an object.
        beyond: how far the centres of objects may lie outside the image; the objects are cut off
            there, their boxes are not.

    Returns:
        uint8 BGR ``(size, size, 3)`` and the objects.
    """
    image = _ground(rng, size)
    names, drawn, circles = list(classes), [], []
    for _ in range(10 * count):
        name = names[int(rng.integers(len(names)))]
        shape, length = SHAPES[classes[name]], rng.uniform(*lengths)
        radius = shape.radius * length / 2
        margin = min(-beyond if beyond else radius, size / 2)
        centre = rng.uniform(margin, size - margin, 2)
        if all(np.hypot(*(centre - other)) > radius + r for other, r in circles):
            circles.append((centre, radius))
            placement = Placement(tuple(centre), length, rng.uniform(-np.pi, np.pi))
            _paint(image, shape, placement, rng.uniform(-15, 15, 3))
            drawn.append((name, placement.to_pixels(shape.box)))
        if len(drawn) == count:
            break
    image = image * rng.uniform(0.85, 1.15) + rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), drawn


def _paint(image: np.ndarray, shape: Shape, placement: Placement, tint: np.ndarray) -> None:
    """Draw in a window: an image is large, an object is not."""
    reach = shape.radius * placement.length / 2 + 1
    first = np.maximum(np.floor(np.array(placement.centre) - reach), 0).astype(int)
    last = np.ceil(np.array(placement.centre) + reach).astype(int)
    window = image[first[1]:last[1], first[0]:last[0]]
    if window.size:
        shape.draw(window, replace(placement, centre=tuple(placement.centre - first)), tint)


def make_xview(root: str | Path, num: int = 12, image_size: int = 620, seed: int = 0) -> Path:
    """``train_images/*.tif`` and the geojson (true: 846 images of 2500 to 5000).

    The geojson has the owner's irregularities: objects of an image that is missing, of a type
    without a name, without a box, partly outside the image.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    features = []
    for number in range(num):
        # the first is smaller than a tile
        size = image_size if number else 300
        image, drawn = draw(rng, size, XVIEW_SHAPES, 12, (24, 90), beyond=1.0)
        name = f'{100 + 7 * number}.tif'
        _write(root / 'train_images' / name, image)
        for kind, corners in drawn:
            box = np.round(np.concatenate([corners.min(0), corners.max(0)])).astype(int)
            features.append(_feature(name, kind, ','.join(map(str, box))))
        features.append(_feature(name, 75, '10,10,40,40'))
    features.append(_feature(name, 18, []))
    features.append(_feature('1395.tif', 18, '5,5,25,25'))
    (root / 'xView_train.geojson').write_text(
        json.dumps(dict(type='FeatureCollection', features=features)))
    return root


def _feature(image: str, kind: int, bounds: str | list) -> dict:
    x1, y1, x2, y2 = (map(int, bounds.split(',')) if bounds else (0, 0, 0, 0))
    ring = [[-90.5 + x * 3e-6, 14.1 - y * 3e-6]
            for x, y in ((x1, y2), (x1, y1), (x2, y1), (x2, y2), (x1, y2))]
    return dict(type='Feature', geometry=dict(type='Polygon', coordinates=[ring]),
                properties=dict(bounds_imcoords=bounds, edge_evidence=0, image_id=image,
                                type_id=kind, cat_id=image, ingest_time='2017/07/24 12:49:09.118'))


def make_dior(root: str | Path, num_trainval: int = 8, num_test: int = 4, image_size: int = 256,
              seed: int = 0, oriented: bool = False) -> Path:
    """DIOR, or DIOR-R (true: 11725 + 11738 images of 800); half of ``trainval`` is ``train``."""
    root, rng = Path(root), np.random.default_rng(seed)
    # the owner's xml has capitals in the names of two classes
    shapes = {**CLASSES['sior'], 'Expressway-toll-station': 'tank'}
    stems = {'train': [], 'val': [], 'test': []}
    for number in range(num_trainval + num_test):
        trainval = number < num_trainval
        stem = f'{number + 1:05d}'
        stems[('train' if number % 2 == 0 else 'val') if trainval else 'test'].append(stem)
        image, drawn = draw(rng, image_size, shapes, int(rng.integers(2, 6)),
                            (0.15 * image_size, 0.35 * image_size))
        _write(root / f'JPEGImages-{"trainval" if trainval else "test"}' / f'{stem}.jpg', image)
        kind = 'Oriented' if oriented else 'Horizontal'
        write_text(root / 'Annotations' / f'{kind} Bounding Boxes' / f'{stem}.xml',
                   _voc(f'{stem}.jpg', image_size, drawn, oriented))
    for split, names in stems.items():
        write_text(root / 'ImageSets' / 'Main' / f'{split}.txt', '\n'.join(names) + '\n')
    return root


def _voc(name: str, size: int, drawn: Drawn, oriented: bool) -> str:
    root = ElementTree.Element('annotation')
    _nest(root, filename=name, size=dict(width=str(size), height=str(size), depth='3'),
          segmented='0')
    for label, corners in drawn:
        tags, values = ((CORNER_TAGS, corners.reshape(-1)) if oriented else
                        (('xmin', 'ymin', 'xmax', 'ymax'), (*corners.min(0), *corners.max(0))))
        box = dict(zip(tags, (str(round(value)) for value in values)))
        element = ElementTree.SubElement(root, 'object')
        _nest(element, name=label, difficult='0', **{'robndbox' if oriented else 'bndbox': box})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding='unicode')


def make_fair1m(root: str | Path, num_train: int = 4, num_val: int = 2, num_test: int = 2,
                image_size: int = 1000, seed: int = 0) -> Path:
    """``train/part{1,2}``, ``validation`` and ``test`` (true: 16488, 8287 and 18021 images).

    Images of ``train`` and ``validation`` have the same names; some objects leave the image.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    # the owner has blanks, where we have hyphens, in some names
    shapes = {name.replace('-', ' '): shape for name, shape in CLASSES['fast'].items()}
    for where, numbers in (('train/part1', range(0, num_train, 2)),
                           ('train/part2', range(1, num_train, 2)),
                           ('validation', range(num_val)), ('test', range(num_test))):
        for number in numbers:
            image, drawn = draw(rng, image_size, shapes, 20, (60, 160), beyond=10.0)
            _write(root / where / 'images' / f'{number}.tif', image)
            if where != 'test':
                write_text(root / where / 'labelXml' / f'{number}.xml',
                           _fair1m_xml(f'{number}.tif', image_size, drawn))
    return root


def _fair1m_xml(name: str, size: int, drawn: Drawn) -> str:
    root = ElementTree.Element('annotation')
    _nest(root, source=dict(filename=name, origin='GF2/GF3'),
          research=dict(version='1.0', provider='FAIR1M', pluginname='FAIR1M'),
          size=dict(width=str(size), height=str(size), depth='3'))
    objects = ElementTree.SubElement(root, 'objects')
    for label, corners in drawn:
        element = ElementTree.SubElement(objects, 'object')
        _nest(element, coordinate='pixel', type='rectangle', description='None',
              possibleresult=dict(name=label))
        points = ElementTree.SubElement(element, 'points')
        for x, y in (*corners, corners[0]):
            _nest(points, point=f'{x:.6f},{y:.6f}')
    ElementTree.indent(root, '\t')
    return ElementTree.tostring(root, encoding='unicode')


def _nest(parent: ElementTree.Element, **children: str | dict[str, str]) -> None:
    for tag, content in children.items():
        child = ElementTree.SubElement(parent, tag)
        if isinstance(content, dict):
            _nest(child, **content)
        else:
            child.text = content


def _make_dota(labels: str, test: str, root: str | Path, num_train: int = 3, num_val: int = 2,
               num_test: int = 2, image_size: int = 1200, seed: int = 0) -> Path:
    """``train``, ``val`` and ``test`` (true: some thousand images of 800 to 20000)."""
    root, rng = Path(root), np.random.default_rng(seed)
    number = 0
    for split, count in (('train', num_train), ('val', num_val), (test, num_test)):
        for _ in range(count):
            stem = f'P{number:04d}'
            image, drawn = draw(rng, image_size, CLASSES['sota'], 25, (60, 180))
            _write(root / split / 'images' / f'{stem}.png', image)
            lines = [' '.join(f'{value:.1f}' for value in corners.reshape(-1))
                     + f' {name} {int(i % 5 == 0)}\n' for i, (name, corners) in enumerate(drawn)]
            if split != test:
                header = 'imagesource:GoogleEarth\ngsd:0.146343590398\n'
                write_text(root / split / labels / f'{stem}.txt', header + ''.join(lines))
            number += 1
    return root


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


make_dior_r = partial(make_dior, oriented=True)
make_dota_v1 = partial(_make_dota, 'labelTxt', 'test')
make_dota_v2 = partial(_make_dota, 'labelTxt-v2.0', 'test-dev')

MAKE = {'xview': make_xview, 'dior': make_dior, 'dior_r': make_dior_r, 'fair1m': make_fair1m,
        'dota_v1': make_dota_v1, 'dota_v2': make_dota_v2}
