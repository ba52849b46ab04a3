"""xView: sixty classes of objects in WorldView-3 images, horizontal boxes."""

import json
from collections import Counter, defaultdict
from math import ceil
from pathlib import Path

import numpy as np

from mtp.data.box_rules import check_order
from mtp.data.datasets.base import DataSet, Split
from mtp.data.decoding import read_size
from mtp.data.label_files import read_features
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.coco_files import Entry, coco_box, coco_image, write_coco
from mtp.data.prepare.images import deal, images_in, read_rgb, write_png
from mtp.data.synthetic.drawing import draw, write_image
from mtp.data.values import check_coordinates
from mtp.files import UnusableFileError

# Type ids in label order, as in the public YOLO conversion.
TYPES = (11, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36, 37, 38,
         40, 41, 42, 44, 45, 47, 49, 50, 51, 52, 53, 54, 55, 56, 57, 59, 60, 61, 62, 63, 64, 65, 66,
         71, 72, 73, 74, 76, 77, 79, 83, 84, 86, 89, 91, 93, 94,
)  # fmt: skip
UNNAMED = (75, 82)  # type ids that occur without a name from the publisher
WITHHELD = '1395.tif'  # has labels, but was never distributed
SHARES = dict(train=700 / 846, val=146 / 846)
TILE, PADDING, COST = 416, 128, 50
# Type id -> shape of its objects in a synthetic copy.
SHAPES = {11: 'plane', 25: 'truck', 51: 'ship', 86: 'tank', 94: 'court'}


def prepare(src: Path, dst: Path) -> Report:
    """Cut 416-pixel tiles: ``{train,val}/images/*.png``, ``xview_{train,val}_coco_format.json``.

    The fewest tiles that cover the image are spaced evenly; smaller images are padded with grey
    128. A box belongs to each tile that holds its centre, and is clipped to it. Left out are tiles
    without boxes, and objects without a name (type ids 75 and 82), without a box, or of an image
    that was never distributed.
    """
    report = Report()
    images = images_in(folder(src, 'train_images'), report)
    features = _features(src / 'xView_train.geojson', images, report)
    splits = deal(images, SHARES)
    for split in DATASET.splits:
        items = [
            (path, features[path.name], dst / split.images)
            for stem, path in images.items()
            if splits[stem] == split.name
        ]
        entries = []
        for tiles, count in process(_cut, items, f'{split.name} scenes', report, cost=COST):
            entries += tiles
            report.left_out += count
        report.made[f'{split.name} images'] = len(entries)
        write_coco(dst / split.labels, entries, DATASET.classes, split.name, report)
    return report


def _features(
    path: Path,
    images: dict[str, Path],
    report: Report,
) -> dict[str, list[tuple[str, dict]]]:
    """Read the objects: file name of an image -> place in the geojson and properties of each.

    Raises:
        FileNotFoundError: the geojson is missing.
        ValueError: the file is not a geojson, or truncated.
    """
    if not path.is_file():
        raise FileNotFoundError(f'no {path}: unpack the archive of train labels there')
    features = read_features(path)
    known = {image.name for image in images.values()}
    found: dict[str, list[tuple[str, dict]]] = defaultdict(list)
    others: Counter[str] = Counter()
    for number, feature in enumerate(features, 1):
        properties = feature.get('properties') or {}
        if not isinstance(properties, dict):
            raise ValueError(f'{path}, feature {number}: its properties are no entries by name')
        name = str(properties.get('image_id'))
        if name in known:
            found[name].append((f'{path}, feature {number}', properties))
        else:
            others[name] += 1
    report.left_out[f'objects of {WITHHELD}, which was never distributed'] = others.pop(WITHHELD, 0)
    report.bad += [
        f'{path}: {count} objects of {name!r}, but no such image in train_images'
        for name, count in others.items()
    ]
    return found


def _cut(item: tuple[Path, list[tuple[str, dict]], Path]) -> tuple[list[Entry], Counter]:
    """Write the tiles that hold objects; return their COCO entries and what was left out."""
    image, features, dst = item
    if not features:
        raise ValueError('xView_train.geojson has no object in it')
    height, width = read_size(image)
    labels, corners, count = _boxes(features, height, width)
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    entries, missing = [], []
    held = np.zeros(len(labels), bool)
    for y in _starts(height):
        for x in _starts(width):
            inside = ((centres >= (x, y)) & (centres < (x + TILE, y + TILE))).all(1)
            held |= inside
            if not inside.any():
                count['tiles without objects'] += 1
                continue
            clipped = np.clip(corners[inside] - (x, y, x, y), 0, TILE)
            path = dst / f'{image.stem}__{TILE}__{x}___{y}.png'
            entries.append(
                coco_image(
                    path.name,
                    (TILE, TILE),
                    [coco_box(label, *box) for label, box in zip(labels[inside], clipped)],
                )
            )
            if not path.is_file():
                missing.append((path, x, y))
    assert held.all(), 'tiles cover the image'
    if missing:
        pixels = read_rgb(image)
        for path, x, y in missing:
            tile = np.full((TILE, TILE, 3), PADDING, np.uint8)
            part = pixels[y : y + TILE, x : x + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            write_png(path, tile)
    return entries, count


def _boxes(
    features: list[tuple[str, dict]],
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray, Counter]:
    """Return labels ``(N,)``, boxes xyxy ``(N, 4)`` clipped to the image, what was left out."""
    labels, corners = [], []
    count: Counter[str] = Counter()
    for place, properties in features:
        kind, bounds = properties.get('type_id'), properties.get('bounds_imcoords')
        if kind in UNNAMED:
            count['objects of the type ids 75 and 82, which have no name'] += 1
            continue
        if type(kind) is not int or kind not in TYPES:
            raise ValueError(f'{place}: unknown type_id {kind!r}')
        if not bounds:
            count['objects without a box'] += 1
            continue
        if not isinstance(bounds, str) or bounds.count(',') != 3:
            raise ValueError(f'{place}: bounds_imcoords are {bounds!r:.60}, not four numbers')
        numbers = check_coordinates(bounds.split(','), f'{place}, bounds_imcoords')
        fault = check_order(numbers[:2], numbers[2:])
        if fault is not None:
            raise UnusableFileError(f'{place}: {fault}')
        box = np.clip(numbers, 0, (width, height, width, height))
        if not (box[2:] > box[:2]).all():
            count['objects without extent in the image'] += 1
            continue
        labels.append(TYPES.index(kind))
        corners.append(box)
    return np.array(labels, int), np.array(corners).reshape(-1, 4), count


def _starts(length: int) -> list[int]:
    """Return the starts of the fewest tiles that cover a length, evenly spaced."""
    rest = max(length - TILE, 0)
    return np.linspace(0, rest, ceil(rest / TILE) + 1).astype(int).tolist()


def synthesise(root: str | Path, num: int = 12, image_size: int = 620, seed: int = 0) -> Path:
    """Write ``train_images/*.tif`` and the geojson (original: 846 images of 2500 to 5000 pixels).

    The geojson has the publisher's irregularities: objects of a missing image, of a type without a
    name, without a box, and partly outside the image.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    features = []
    for number in range(num):
        # the first is smaller than a tile
        size = image_size if number else 300
        image, drawn = draw(rng, size, SHAPES, 12, (24, 90), beyond=1.0)
        name = f'{100 + 7 * number}.tif'
        write_image(root / 'train_images' / name, image)
        for kind, corners in drawn:
            box = np.round(np.concatenate([corners.min(0), corners.max(0)])).astype(int)
            features.append(_feature(name, kind, ','.join(map(str, box))))
        features.append(_feature(name, 75, '10,10,40,40'))
    features.append(_feature(name, 18, []))
    features.append(_feature('1395.tif', 18, '5,5,25,25'))
    (root / 'xView_train.geojson').write_text(
        json.dumps(dict(type='FeatureCollection', features=features))
    )
    return root


def _feature(image: str, kind: int, bounds: str | list) -> dict:
    x1, y1, x2, y2 = map(int, bounds.split(',')) if isinstance(bounds, str) else (0, 0, 0, 0)
    ring = [
        [-90.5 + x * 3e-6, 14.1 - y * 3e-6]
        for x, y in ((x1, y2), (x1, y1), (x2, y1), (x2, y2), (x1, y2))
    ]
    return dict(
        type='Feature',
        geometry=dict(type='Polygon', coordinates=[ring]),
        properties=dict(
            bounds_imcoords=bounds,
            edge_evidence=0,
            image_id=image,
            type_id=kind,
            cat_id=image,
            ingest_time='2017/07/24 12:49:09.118',
        ),
    )


DATASET = DataSet(
    title='xView',
    task='horizontal_detection',
    classes=(
        'Fixed-wing Aircraft',
        'Small Aircraft',
        'Cargo Plane',
        'Helicopter',
        'Passenger Vehicle',
        'Small Car',
        'Bus',
        'Pickup Truck',
        'Utility Truck',
        'Truck',
        'Cargo Truck',
        'Truck w/Box',
        'Truck Tractor',
        'Trailer',
        'Truck w/Flatbed',
        'Truck w/Liquid',
        'Crane Truck',
        'Railway Vehicle',
        'Passenger Car',
        'Cargo Car',
        'Flat Car',
        'Tank car',
        'Locomotive',
        'Maritime Vessel',
        'Motorboat',
        'Sailboat',
        'Tugboat',
        'Barge',
        'Fishing Vessel',
        'Ferry',
        'Yacht',
        'Container Ship',
        'Oil Tanker',
        'Engineering Vehicle',
        'Tower crane',
        'Container Crane',
        'Reach Stacker',
        'Straddle Carrier',
        'Mobile Crane',
        'Dump Truck',
        'Haul Truck',
        'Scraper/Tractor',
        'Front loader/Bulldozer',
        'Excavator',
        'Cement Mixer',
        'Ground Grader',
        'Hut/Tent',
        'Shed',
        'Building',
        'Aircraft Hangar',
        'Damaged Building',
        'Facility',
        'Construction Site',
        'Vehicle Lot',
        'Helipad',
        'Storage Tank',
        'Shipping container lot',
        'Shipping Container',
        'Pylon',
        'Tower',
    ),
    source='D. Lam et al., DIUx: xView challenge site (registration), train_images and '
    'train_labels',
    licence='CC BY-NC-SA 4.0',
    size='846 labelled images of about 2500 to 5000 px, 0.3 m; divided 700 / 146 at random, by a '
    "fixed seed (the paper's own division is not published), tiles of 416",
    layout='train_images/*.tif, xView_train.geojson',
    citation='D. Lam et al.: xView: Objects in Context in Overhead Imagery. arXiv:1802.07856, 2018',
    splits=tuple(
        Split(split, f'{split}/images', f'xview_{split}_coco_format.json') for split in SHARES
    ),
    prepare=prepare,
    synthesise=synthesise,
)
