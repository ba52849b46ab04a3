"""Conversion of COCO annotations with masks to the files that :class:`SAMRSDataset` reads."""

import shutil
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtp.data.coco_objects import check_stems
from mtp.data.decoding import read_image
from mtp.data.label_files import read_coco
from mtp.data.run_lengths import decode_mask
from mtp.data.samrs.subsets import BACKGROUND, SUBSETS, Subset
from mtp.data.samrs.to_coco import (
    SPLITS,
    Report,
    assemble,
    divide,
    dota_line,
    image_entry,
    mask_entries,
    paint_semantic,
    parallel,
    rectangle,
)
from mtp.files import UnusableFileError, link_or_copy, write_json
from mtp.spelling import fold


def coco_to_samrs(
    annotations: Path,
    images: Path,
    out: Path,
    val_fraction: float = 0.2,
    seed: int = 0,
    valid: Collection[str] | None = None,
) -> Report:
    """Convert COCO annotations with masks to a multi-task data set in the layout of SOTA.

    The semantic map is painted from the masks, smaller objects on top. A rotated box is the
    rectangle of least area around the mask, or that of the annotation's ``corners``, 8 coordinates
    in pixels, where an import has them. A crowd stays in the json and the map, but has no
    rotated box. Images are hard-linked if the file system allows it, else copied. Labels are the
    categories in order of id; those with one name are one class.

    Args:
        annotations: COCO json with polygons or RLE.
        images: folder of the images.
        out: folder to write; it must not exist.
        val_fraction: fraction of the images for validation, 0..1.
        seed: seed of the random split.
        valid: file names of the validation images, instead of a random fraction.

    Returns:
        Report: counts, one line for each image or annotation that could not be used, and notes on
        the categories.

    Raises:
        FileExistsError: ``out`` exists.
        ValueError: no annotation has a mask, two images share a stem, there are more than 255
            categories, or an image of ``valid`` is unknown.
    """
    if out.exists():
        raise FileExistsError(f'{out} exists: remove it or choose another folder')
    coco = read_coco(annotations)
    _check_coco(coco, annotations, valid or ())
    report = Report()
    classes, labels = _classes_of(coco, report)
    if len(classes) > BACKGROUND:
        raise ValueError(
            f'{annotations} has {len(classes)} categories: a grey semantic map takes {BACKGROUND} '
            'at most'
        )
    of_image: dict[int, list[dict]] = {image['id']: [] for image in coco['images']}
    for annotation in coco['annotations']:
        if annotation['image_id'] in of_image:
            of_image[annotation['image_id']].append(annotation)
        else:
            report.bad.append(f'annotation {annotation["id"]}: no image {annotation["image_id"]}')

    facts = SUBSETS['sota']
    building = out.with_name(f'{out.name}.partial')
    shutil.rmtree(building, ignore_errors=True)
    for folder in (facts.images, facts.semantic, facts.rotated):
        (building / folder).mkdir(parents=True)
    convert = partial(_convert_coco_image, images, building, facts, labels, classes)
    parts = (
        divide(coco['images'], val_fraction, seed)
        if valid is None
        else (
            [image for image in coco['images'] if image['file_name'] not in valid],
            [image for image in coco['images'] if image['file_name'] in valid],
        )
    )
    for split, part in zip(SPLITS, parts):
        results = []
        for result, bad in parallel(
            convert, [(image, of_image[image['id']]) for image in part], split
        ):
            results += [result] if result else []
            report.bad += bad
        new = assemble(results, classes)
        write_json(building / facts.instances.format(split=split), new)
        report.count(split, new)
    building.rename(out)
    return report


def _classes_of(coco: dict, report: Report) -> tuple[list[str], dict[int | str, int]]:
    """Return the classes, in the order of the categories' ids, and id of a category -> label.

    Categories with one name are one class. One that is the supercategory of others and has no
    objects is none: exports of Roboflow begin with one for the whole project.
    """
    used = {annotation['category_id'] for annotation in coco['annotations']}
    above = [category.get('supercategory') for category in coco['categories']]
    classes: list[str] = []
    labels: dict[int | str, int] = {}
    known: dict[str, int] = {}
    for category in sorted(coco['categories'], key=lambda category: category['id']):
        number, name = category['id'], category['name']
        if number not in used and name in above and category.get('supercategory') != name:
            report.notes.append(f'the category {number}, {name!r}, has no objects: no class')
            continue
        label = labels[number] = known.setdefault(fold(name), len(classes))
        if label == len(classes):
            classes.append('-'.join(name.split()))  # a DOTA text file separates by spaces
        else:
            report.notes.append(f'the category {number}, {name!r}, is the class {classes[label]!r}')
    return classes, labels


def _check_coco(coco: dict, path: Path, valid: Collection[str]) -> None:
    if not coco['images']:
        raise ValueError(f'{path} lists no images')
    if not any(annotation.get('segmentation') for annotation in coco['annotations']):
        raise ValueError(f'{path} has no masks (`segmentation`): boxes alone are not enough')
    check_stems(coco['images'], path)
    unknown = set(valid) - {image['file_name'] for image in coco['images']}
    if unknown:
        raise ValueError(
            f'{path} has no image {min(unknown)!r}, nor {len(unknown) - 1} other(s) '
            'of the list for validation: give `file_name`s as they are in the json'
        )


def _convert_coco_image(
    images: Path,
    root: Path,
    facts: Subset,
    labels: dict[int | str, int],
    classes: Sequence[str],
    item: tuple[dict, list[dict]],
) -> tuple[tuple[dict, list[dict]] | None, list[str]]:
    """Write an image and its labels; return its entries for the COCO json, and its problems."""
    image, annotations = item
    source = images / image['file_name']
    recorded = image['height'], image['width']
    if not source.is_file():
        return None, [f'{source}: no such image']
    try:
        shape = read_image(source, recorded).shape[:2]
    except UnusableFileError as error:
        return None, [str(error)]
    if shape != recorded:
        return None, [f'{source}: (height, width) is {shape}, but in the json {recorded}']
    objects, masks, boxes, bad = [], [], [], []
    for annotation in annotations:
        mask, problem = _read_mask(annotation, labels, shape)
        if mask is None:
            bad.append(f'{source}, annotation {annotation["id"]}: {problem}')
            continue
        masks.append(mask)
        corners = annotation.get('corners')
        boxes.append(rectangle(mask) if corners is None else np.array(corners))
        objects.append(
            dict(
                category_id=labels[annotation['category_id']],
                iscrowd=annotation.get('iscrowd', 0),
                **mask_entries(coco_mask.encode(np.asfortranarray(mask))),
            )
        )
    link_or_copy(source, root / facts.images / source.name)
    semantic = paint_semantic(masks, [entry['category_id'] for entry in objects], shape)
    cv2.imwrite(str(root / facts.semantic / f'{source.stem}.png'), semantic)
    lines = [
        dota_line(corners, classes[entry['category_id']])
        for corners, entry in zip(boxes, objects)
        if not entry['iscrowd']
    ]
    (root / facts.rotated / f'{source.stem}.txt').write_text(''.join(lines))
    return (image_entry(source.name, *shape), objects), bad


def _read_mask(
    annotation: dict,
    labels: dict[int | str, int],
    shape: tuple[int, int],
) -> tuple[np.ndarray | None, str | None]:
    """Return the mask of an annotation and None, or None and what is wrong with it."""
    if annotation['category_id'] not in labels:
        return None, f'unknown category {annotation["category_id"]}'
    if not annotation.get('segmentation'):
        return None, 'no mask'
    try:
        mask = decode_mask(annotation['segmentation'], *shape)
    except Exception as error:  # pycocotools raises plain Exceptions of a dozen kinds
        return None, f'the mask cannot be read: {error}'
    return (mask, None) if mask.any() else (None, 'the mask is empty')
