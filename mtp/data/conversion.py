"""From what data sets are distributed as to the files that :class:`SAMRSDataset` reads."""
import io
import json
import os
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mtp.data.samrs import SUBSETS, Subset
from mtp.data.transforms import decode_mask

SPLITS = ('train', 'valid')


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        written: images of each split that are in the new files.
        skipped: splits whose json was there already.
        bad: what could not be used, with the reason.
    """
    written: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def parallel(function: Callable, items: Sequence, what: str) -> Iterable:
    """``map(function, items)`` on all cores, in order, with a progress bar."""
    cores = os.cpu_count() or 1
    if cores == 1 or len(items) < 64:
        yield from map(function, tqdm(items, what, disable=len(items) < 64))
        return
    with ProcessPoolExecutor(cores) as pool:
        yield from tqdm(pool.map(function, items, chunksize=16), what, total=len(items))


def write_json(path: Path, content: dict) -> None:
    """Write a file that is whole or not there."""
    partial_path = path.with_suffix('.partial')
    partial_path.write_text(json.dumps(content))
    partial_path.replace(path)


def samrs_to_coco(root: Path, subset: str, classes: Sequence[str] | None = None,
                  val_fraction: float = 0.1, seed: int = 0) -> Report:
    """Make the COCO json of a subset's splits from its ``.pkl`` files.

    A split lists its images in ``<split>.txt`` below ``root``, a stem a line; where these files
    are missing, images are divided at random and the files written. A json that exists is left
    alone, so that an interrupted run can be started again. Categories are the classes in label
    order (id = label), ids count from 0, boxes and areas are those of the masks.

    Args:
        root: of the subset, e.g. ``data/samrs/SOTA``.
        subset: ``'sota'``, ``'sior'`` or ``'fast'``.
        classes: in label order; None for the subset's own.
        val_fraction: share of the images for validation, where there are no lists.
        seed: of that division.

    Returns:
        Report: with one line for each file that could not be used.

    Raises:
        FileNotFoundError: no folder of ``.pkl`` files.
    """
    facts = SUBSETS[subset]
    classes = tuple(classes or facts.classes)
    report = Report()
    for split, stems in _splits(root, facts, val_fraction, seed).items():
        path = root / facts.instances.format(split=split)
        if path.is_file():
            report.skipped.append(split)
            continue
        suffixes = _image_suffixes(root / facts.images)
        convert = partial(_convert_image, root, facts, len(classes), suffixes)
        coco = dict(images=[], annotations=[], categories=[
            dict(id=label, name=name) for label, name in enumerate(classes)])
        for result in parallel(convert, stems, f'{subset} {split}'):
            if isinstance(result, str):
                report.bad.append(result)
                continue
            image, annotations = result
            image['id'] = len(coco['images'])
            coco['images'].append(image)
            for annotation in annotations:
                coco['annotations'].append(dict(
                    annotation, id=len(coco['annotations']), image_id=image['id'], iscrowd=0))
        write_json(path, coco)
        report.written[split] = len(coco['images'])
    return report


def _splits(root: Path, facts: Subset, val_fraction: float, seed: int) -> dict[str, list[str]]:
    lists = {split: root / f'{split}.txt' for split in SPLITS}
    if not any(path.is_file() for path in lists.values()):
        stems = sorted(path.stem for path in (root / facts.masks).glob('*.pkl'))
        if not stems:
            raise FileNotFoundError(f'no .pkl files in {root / facts.masks}: put the instance masks '
                                    'of SAMRS there; see docs/pretraining.md for the layout')
        for split, part in zip(SPLITS, divide(stems, val_fraction, seed)):
            lists[split].write_text('\n'.join(part) + '\n')
    return {split: path.read_text().split() for split, path in lists.items() if path.is_file()}


def divide(items: Sequence, val_fraction: float, seed: int) -> tuple[list, list]:
    """Split items at random into training and validation, each in the given order."""
    chosen = set(random.Random(seed).sample(range(len(items)), round(len(items) * val_fraction)))
    return ([item for i, item in enumerate(items) if i not in chosen],
            [item for i, item in enumerate(items) if i in chosen])


def _image_suffixes(folder: Path) -> dict[str, str]:
    return {path.stem: path.suffix for path in folder.iterdir()} if folder.is_dir() else {}


def _convert_image(root: Path, facts: Subset, num_classes: int, suffixes: dict[str, str],
                   stem: str) -> tuple[dict, list[dict]] | str:
    path = root / facts.masks / f'{stem}.pkl'
    try:
        if stem not in suffixes:
            raise ValueError(f'no image of that name in {root / facts.images}')
        name = stem + suffixes[stem]
        width, height = Image.open(root / facts.images / name).size
        annotations = []
        for instance in read_pickle(path):
            label, rle = int(instance['label']), instance['mask']
            if not 0 <= label < num_classes:
                raise ValueError(f'label {label}, but there are {num_classes} classes')
            if tuple(rle['size']) != (height, width):
                raise ValueError(f'a mask of size {tuple(rle["size"])} on an image of '
                                 f'{(height, width)}')
            annotations.append(dict(category_id=label, **mask_entries(rle)))
    except Exception as error:  # a bad file must not end the run; it is reported
        return f'{path}: {error}'
    return dict(file_name=name, segm_file=f'{stem}.png', height=height, width=width), annotations


def mask_entries(rle: dict) -> dict:
    """``bbox`` (x, y, w, h), ``area`` and ``segmentation`` of an RLE, as COCO stores them."""
    if isinstance(rle['counts'], list):
        rle = coco_mask.frPyObjects(rle, *rle['size'])
    counts = rle['counts']
    encoded = dict(size=[int(side) for side in rle['size']],
                   counts=counts.encode() if isinstance(counts, str) else counts)
    return dict(bbox=coco_mask.toBbox(encoded).tolist(), area=float(coco_mask.area(encoded)),
                segmentation=dict(encoded, counts=encoded['counts'].decode()))


class _DataUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers and numpy arrays: a pickle may otherwise run any code."""
    allowed = {
        ('numpy', 'dtype'), ('numpy', 'ndarray'),
        *((f'numpy.{core}.multiarray', name) for core in ('core', '_core')
          for name in ('scalar', '_reconstruct')),
        *((f'numpy.{core}.numeric', '_frombuffer') for core in ('core', '_core'))}

    def find_class(self, module: str, name: str):
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise ValueError(f'it holds a {module}.{name}, which is not plain data')


def read_pickle(path: Path) -> list[dict]:
    """Read a SAMRS ``.pkl``: a list of ``dict(label=..., mask=RLE)``.

    Raises:
        ValueError: it holds anything but plain data and arrays.
    """
    return _DataUnpickler(io.BytesIO(path.read_bytes())).load()


def coco_to_samrs(annotations: Path, images: Path, out: Path, val_fraction: float = 0.2,
                  seed: int = 0) -> Report:
    """Make a multi-task data set, in the layout of SOTA, of COCO annotations with masks.

    The semantic map is painted from the masks, large objects first; a rotated box is the mask's
    rectangle of least area. Crowds stay in the json and are in neither of these. Images are
    linked where the file system can, else copied.

    Args:
        annotations: COCO json with polygons or RLE.
        images: folder of the images.
        out: folder to write; it must not exist.
        val_fraction: share of the images for validation.
        seed: of the division.

    Returns:
        Report: with one line for each image or annotation that could not be used.

    Raises:
        FileExistsError: ``out`` exists.
        ValueError: no annotation has a mask.
    """
    if out.exists():
        raise FileExistsError(f'{out} exists: remove it or choose another folder')
    facts = SUBSETS['sota']
    coco = json.loads(annotations.read_text())
    if not any(annotation.get('segmentation') for annotation in coco['annotations']):
        raise ValueError(f'{annotations} has no masks (`segmentation`): boxes alone are not enough')
    categories = sorted(coco['categories'], key=lambda category: category['id'])
    labels = {category['id']: label for label, category in enumerate(categories)}
    of_image = {image['id']: [] for image in coco['images']}
    report = Report()
    for annotation in coco['annotations']:
        of_image[annotation['image_id']].append(annotation)

    building = out.with_name(f'{out.name}.partial')
    shutil.rmtree(building, ignore_errors=True)
    for folder in (facts.images, facts.semantic, facts.rotated):
        (building / folder).mkdir(parents=True)
    parts = divide(coco['images'], val_fraction, seed)
    for split, part in zip(SPLITS, parts):
        new = dict(images=[], annotations=[], categories=[
            dict(id=label, name=_one_word(category['name']))
            for label, category in enumerate(categories)])
        for image in tqdm(part, split):
            source = images / image['file_name']
            try:
                width, height = Image.open(source).size
            except OSError as error:
                report.bad.append(f'{source}: {error}')
                continue
            if (height, width) != (image['height'], image['width']):
                report.bad.append(f'{source}: {width} x {height} pixels, but {annotations.name} '
                                  f'says {image["width"]} x {image["height"]}')
                continue
            objects = _objects(of_image[image['id']], labels, height, width, report)
            number = len(new['images'])
            new['images'].append(dict(
                image, id=number, file_name=Path(image['file_name']).name))
            for entry in objects:
                new['annotations'].append(dict(
                    entry, id=len(new['annotations']), image_id=number))
            _write_labels(building, facts, source, objects, new['categories'], (height, width))
        write_json(building / facts.instances.format(split=split), new)
        report.written[split] = len(new['images'])
    building.rename(out)
    return report


def _one_word(name: str) -> str:
    # DOTA's text files separate by spaces
    return '-'.join(name.split())


def _objects(annotations: list[dict], labels: dict[int, int], height: int, width: int,
             report: Report) -> list[dict]:
    objects = []
    for annotation in annotations:
        where = f'annotation {annotation["id"]}'
        if annotation['category_id'] not in labels:
            report.bad.append(f'{where}: unknown category {annotation["category_id"]}')
        elif not annotation.get('segmentation'):
            report.bad.append(f'{where}: no mask')
        else:
            mask = decode_mask(annotation['segmentation'], height, width)
            if mask.any():
                objects.append(dict(
                    mask_entries(coco_mask.encode(np.asfortranarray(mask))),
                    category_id=labels[annotation['category_id']],
                    iscrowd=annotation.get('iscrowd', 0)))
            else:
                report.bad.append(f'{where}: the mask is empty')
    return objects


def _write_labels(root: Path, facts: Subset, source: Path, objects: list[dict],
                  categories: list[dict], shape: tuple[int, int]) -> None:
    objects = [entry for entry in objects if not entry['iscrowd']]
    masks = [decode_mask(entry['segmentation'], *shape) for entry in objects]
    target = root / facts.images / source.name
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    semantic = paint_semantic(masks, [entry['category_id'] for entry in objects], shape)
    cv2.imwrite(str(root / facts.semantic / f'{source.stem}.png'), semantic)
    lines = [dota_line(rectangle(mask), categories[entry['category_id']]['name'])
             for mask, entry in zip(masks, objects)]
    (root / facts.rotated / f'{source.stem}.txt').write_text(''.join(lines))


def paint_semantic(masks: Sequence[np.ndarray], labels: Sequence[int],
                   shape: tuple[int, int]) -> np.ndarray:
    """Masks ``(H, W)`` -> uint8 ``(H, W)`` of labels, smaller objects on top, 255 = background."""
    semantic = np.full(shape, 255, np.uint8)
    for i in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        semantic[masks[i] > 0] = labels[i]
    return semantic


def rectangle(mask: np.ndarray) -> np.ndarray:
    """Corners ``(4, 2)`` x, y in pixels of the rectangle of least area around a mask's pixels."""
    rows, columns = mask.nonzero()
    # a pixel covers a unit square, not a point
    points = np.concatenate([np.stack([columns + dx, rows + dy], 1)
                             for dx in (0, 1) for dy in (0, 1)]).astype(np.float32)
    return cv2.boxPoints(cv2.minAreaRect(points))


def dota_line(corners: np.ndarray, name: str, difficulty: int = 0) -> str:
    """A line of DOTA's text form."""
    return ' '.join(f'{value:.1f}' for value in corners.reshape(-1)) + f' {name} {difficulty}\n'


def class_counts(path: Path) -> Counter:
    """Objects per class name in a COCO json."""
    coco = json.loads(path.read_text())
    names = {category['id']: category['name'] for category in coco['categories']}
    return Counter(names[annotation['category_id']] for annotation in coco['annotations'])
