"""Horizontal detection: DIOR and xView."""
import json
from collections import Counter, defaultdict
from math import ceil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mtp.data.facts.detection import DETECTION
from mtp.data.prepare import box_files as boxes
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.images import (
    by_lists,
    copy_image,
    deal,
    images_in,
    read_rgb,
    read_size,
    write_png,
)
from mtp.data.samrs.to_coco import assemble
from mtp.files import write_json

# pycocotools takes an object of id 0 for none
FIRST_ID = 1

# xView's type ids in label order, as in the public YOLO conversion.
XVIEW_TYPES = (11, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36,
               37, 38, 40, 41, 42, 44, 45, 47, 49, 50, 51, 52, 53, 54, 55, 56, 57, 59, 60, 61, 62,
               63, 64, 65, 66, 71, 72, 73, 74, 76, 77, 79, 83, 84, 86, 89, 91, 93, 94)
XVIEW_UNNAMED = (75, 82)  # type ids that occur, but that the owner gives no name
XVIEW_WITHHELD = '1395.tif'  # has labels, but was never distributed
XVIEW_SHARES = dict(train=700 / 846, val=146 / 846)
XVIEW_TILE, XVIEW_PADDING, XVIEW_COST = 416, 128, 50

Entry = tuple[dict, list[dict]]  # an image of the COCO json, and its annotations, without ids


def dior(src: Path, dst: Path) -> Report:
    """VOC xml -> ``JPEGImages-{trainval,test}`` and ``DIOR_{trainval,test}_coco.json``."""
    report = Report()
    annotations = folder(src, 'Annotations/Horizontal Bounding Boxes', 'Horizontal Bounding Boxes')
    splits = dior_images(src, report)
    for split, images in (('trainval', splits['train'] + splits['val']), ('test', splits['test'])):
        items = [(image, annotations / f'{image.stem}.xml', dst / f'JPEGImages-{split}')
                 for image in images]
        results = process(_dior_image, items, f'{split} images', report, _first)
        _write_coco(dst / f'DIOR_{split}_coco.json', [entry for entry, _ in results], 'dior',
                    split, report)
        report.left_out['objects without extent'] += sum(count for _, count in results)
    return report


def dior_images(src: Path, report: Report) -> dict[str, list[Path]]:
    """Split -> images of the lists of DIOR and DIOR-R.

    Raises:
        FileNotFoundError: a folder or a list is missing.
    """
    images = {}
    for name in ('JPEGImages-trainval', 'JPEGImages-test'):
        for stem, path in images_in(folder(src, name), report).items():
            if stem in images:
                report.bad.append(f'{path}: {images[stem]} has the same name')
            else:
                images[stem] = path
    main = folder(src, 'ImageSets/Main', 'Main')
    lists = {split: main / f'{split}.txt' for split in ('train', 'val', 'test')}
    for path in lists.values():
        if not path.is_file():
            raise FileNotFoundError(f'no list {path}: unpack the archive of image sets')
    splits = {split: [] for split in lists}
    for stem, split in by_lists(lists, images, report).items():
        splits[split].append(images[stem])
    return splits


def check_size(image: Path, annotations: Path, root: ElementTree.Element) -> tuple[int, int]:
    """Height and width of an image.

    Raises:
        ValueError: its xml tells another size.
    """
    shape = read_size(image)
    told = boxes.read_size(annotations, root)
    if told != shape:
        raise ValueError(f'{annotations} is of an image of height and width {told}, but {image} '
                         f'has {shape}')
    return shape


def _dior_image(item: tuple[Path, Path, Path]) -> tuple[Entry, int]:
    """The image's entry, and the number of boxes without extent."""
    image, annotations, dst = item
    root, objects = boxes.read_xml(annotations)
    shape = check_size(image, annotations, root)
    classes = DETECTION['dior'].classes
    found = boxes.checked(boxes.horizontal(objects), classes, shape)
    entries = [_annotation(classes.index(box.name), *box.corners[0], *box.corners[2])
               for box in found]
    good = [entry for entry in entries if min(entry['bbox'][2:]) > 0]
    target = copy_image((image, dst / image.name))
    return _entry(target.name, shape, good), len(entries) - len(good)


def xview(src: Path, dst: Path) -> Report:
    """``train_images``, ``xView_train.geojson`` -> tiles and a json of each split.

    ``{train,val}/images/<image>__416__<x>___<y>.png`` and ``xview_{train,val}_coco_format.json``.
    """
    report = Report()
    images = images_in(folder(src, 'train_images'), report)
    features = _xview_features(src / 'xView_train.geojson', images, report)
    splits = deal(images, XVIEW_SHARES)
    for split in XVIEW_SHARES:
        items = [(path, features[path.name], dst / split / 'images')
                 for stem, path in images.items() if splits[stem] == split]
        entries = []
        for tiles, count in process(_xview_image, items, f'{split} scenes', report, _first,
                                    XVIEW_COST):
            entries += tiles
            report.left_out += count
        report.made[f'{split} images'] = len(entries)
        _write_coco(dst / f'xview_{split}_coco_format.json', entries, 'xview', split, report)
    return report


def _xview_features(path: Path, images: dict[str, Path], report: Report,
                    ) -> dict[str, list[tuple[str, dict]]]:
    """File name of an image -> place and properties of its objects.

    Raises:
        FileNotFoundError: no geojson.
        ValueError: it is no geojson, or one cut short.
    """
    if not path.is_file():
        raise FileNotFoundError(f'no {path}: unpack the archive of train labels there')
    try:
        features = json.loads(path.read_text())['features']
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is no whole geojson: {error!r}') from error
    known = {image.name for image in images.values()}
    found, others = defaultdict(list), Counter()
    for number, feature in enumerate(features, 1):
        properties = feature.get('properties') or {}
        name = properties.get('image_id')
        if name in known:
            found[name].append((f'{path}, feature {number}', properties))
        else:
            others[name] += 1
    report.left_out[f'objects of {XVIEW_WITHHELD}, which was never distributed'] = others.pop(
        XVIEW_WITHHELD, 0)
    report.bad += [f'{path}: {count} objects of {name!r}, but no such image in train_images'
                   for name, count in others.items()]
    return found


def _xview_image(item: tuple[Path, list[tuple[str, dict]], Path]) -> tuple[list[Entry], Counter]:
    """Write the tiles that hold objects; give their entries and what was left out."""
    image, features, dst = item
    if not features:
        raise ValueError('xView_train.geojson has no object in it')
    height, width = read_size(image)
    labels, corners, count = _xview_boxes(features, height, width)
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    entries, missing = [], []
    held = np.zeros(len(labels), bool)
    for y in _starts(height):
        for x in _starts(width):
            inside = ((centres >= (x, y)) & (centres < (x + XVIEW_TILE, y + XVIEW_TILE))).all(1)
            held |= inside
            if not inside.any():
                count['tiles without objects'] += 1
                continue
            clipped = np.clip(corners[inside] - (x, y, x, y), 0, XVIEW_TILE)
            path = dst / f'{image.stem}__{XVIEW_TILE}__{x}___{y}.png'
            entries.append(_entry(path.name, (XVIEW_TILE, XVIEW_TILE), [
                _annotation(label, *box) for label, box in zip(labels[inside], clipped)]))
            if not path.is_file():
                missing.append((path, x, y))
    assert held.all(), 'tiles cover the image'
    if missing:
        pixels = read_rgb(image)
        for path, x, y in missing:
            tile = np.full((XVIEW_TILE, XVIEW_TILE, 3), XVIEW_PADDING, np.uint8)
            part = pixels[y:y + XVIEW_TILE, x:x + XVIEW_TILE]
            tile[:part.shape[0], :part.shape[1]] = part
            write_png(path, tile)
    return entries, count


def _xview_boxes(features: list[tuple[str, dict]], height: int, width: int,
                 ) -> tuple[np.ndarray, np.ndarray, Counter]:
    """Labels ``(N,)``, boxes xyxy ``(N, 4)`` clipped to the image, and what was left out."""
    labels, corners, count = [], [], Counter()
    for place, properties in features:
        kind, bounds = properties.get('type_id'), properties.get('bounds_imcoords')
        if kind in XVIEW_UNNAMED:
            count['objects of the type ids 75 and 82, which have no name'] += 1
            continue
        if kind not in XVIEW_TYPES:
            raise ValueError(f'{place}: unknown type_id {kind!r}')
        if not bounds:
            count['objects without a box'] += 1
            continue
        try:
            x1, y1, x2, y2 = (float(value) for value in bounds.split(','))
        except (ValueError, AttributeError):
            raise ValueError(f'{place}: bounds_imcoords are {bounds!r}, not four numbers') from None
        box = np.clip((x1, y1, x2, y2), 0, (width, height, width, height))
        if not (box[2:] > box[:2]).all():  # nan too
            count['objects without extent in the image'] += 1
            continue
        labels.append(XVIEW_TYPES.index(kind))
        corners.append(box)
    return np.array(labels, int), np.array(corners).reshape(-1, 4), count


def _starts(length: int) -> list[int]:
    """As few tiles as cover the length, evenly spaced."""
    rest = max(length - XVIEW_TILE, 0)
    return np.linspace(0, rest, ceil(rest / XVIEW_TILE) + 1).astype(int).tolist()


def _entry(name: str, shape: tuple[int, int], annotations: list[dict]) -> Entry:
    return dict(file_name=name, height=shape[0], width=shape[1]), annotations


def _annotation(label: int, x1: float, y1: float, x2: float, y2: float) -> dict:
    w, h = float(x2 - x1), float(y2 - y1)
    return dict(category_id=int(label), bbox=[float(x1), float(y1), w, h], area=w * h, iscrowd=0)


def _write_coco(path: Path, entries: list[Entry], name: str, split: str, report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coco = assemble(entries, DETECTION[name].classes, FIRST_ID)
    write_json(path, coco)
    report.made[f'{split} objects'] = len(coco['annotations'])


def _first(item: tuple) -> Path:
    return item[0]


PREPARE = {'dior': dior, 'xview': xview}
