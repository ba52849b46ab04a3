"""Checks that the images and labels of SAMRS, or of data in its layout, are complete and agree."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import shapely

from mtp.data.box_rules import MIN_SIDE
from mtp.data.decoding import read_map, read_orientation, read_stored
from mtp.data.label_files import read_coco
from mtp.data.rotated_labels import read_rotated
from mtp.data.run_lengths import decode_mask
from mtp.data.samrs.subsets import BACKGROUND, IGNORED_ON_DISK, SUBSETS, Subset
from mtp.data.samrs.to_coco import SPLITS, parallel, rectangle
from mtp.data.tally import Tally
from mtp.data.values import check_boxes
from mtp.files import UnusableFileError
from mtp.spelling import fold

# Smallest IoU of a rotated box and the rectangle around its mask. A wrong angle or class falls
# below it; a rough mask does not: the masks of SAMRS were predicted, and may miss parts of objects.
MIN_AGREEMENT = 0.3

CHECKS = {
    'categories': 'category ids count from 0, names differ, and both splits have the same',
    'split': 'no image is in both splits',
    'image': 'the image opens and has the recorded size',
    'semantic': "the semantic map opens, has the image's size, and only classes or 255",
    'annotation': 'annotations belong to an image and a category',
    'box': 'boxes have an extent of 1 px or more and lie inside the image',
    'mask': 'masks can be read and are not empty',
    'rotated': 'rotated boxes can be read, have known classes and an area, and are in the image',
    'masks on map': 'the semantic map shows the class of each mask',
    'boxes on masks': 'each rotated box lies on a mask of its class',
    'masks in boxes': 'each mask lies in a rotated box of its class',
}

Problem = tuple[str, str]  # key of CHECKS, where and what


@dataclass
class Findings:
    """Result of a check.

    Attributes:
        images: number of images per split.
        objects: number of annotations in the json files.
        problems: key of ``CHECKS`` -> where and what, one line each; empty for good data.
    """

    images: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def find_subsets(root: Path) -> dict[str, Path]:
    """Find the subsets below a root: folders SOTA, SIOR, FAST, or the subset in ``root`` itself.

    Returns:
        Name of the layout -> root of the subset; its json files show a folder's layout.

    Raises:
        FileNotFoundError: there is no subset.
    """
    found = {
        subset: folder
        for subset, facts in SUBSETS.items()
        for folder in (root / subset.upper(), root)
        if any((folder / facts.instances.format(split=split)).is_file() for split in SPLITS)
    }
    if not found:
        raise FileNotFoundError(
            f'no json of SOTA, SIOR or FAST at {root}: give the folder that holds these, or the '
            'root of one; make the json with `mtp data samrs-to-coco`. For another data set, '
            'give its name: --dataset NAME'
        )
    return found


def check_subset(root: Path, subset: str) -> Findings:
    """Check all images of a subset, on all cores.

    Args:
        root: root folder of the subset.
        subset: name of the layout. The classes are the categories of the json.

    Raises:
        FileNotFoundError: there is no json.
    """
    facts = SUBSETS[subset]
    findings = Findings()
    splits: dict[str, dict] = {}
    for split in SPLITS:
        path = root / facts.instances.format(split=split)
        if path.is_file():
            try:
                splits[split] = read_coco(path)
            except UnusableFileError as error:
                findings.problems['annotation'].append(str(error))
    if not splits and not findings.problems:
        raise FileNotFoundError(f'no {facts.instances} in {root}')
    seen: dict[str, str] = {}
    for split, coco in splits.items():
        for problem in _check_json(split, coco, splits, seen):
            findings.problems[problem[0]].append(problem[1])
        of_image = defaultdict(list)
        for annotation in coco['annotations']:
            of_image[annotation['image_id']].append(annotation)
        names = {category['id']: category['name'] for category in coco['categories']}
        check = partial(_check_image, root, facts, names)
        items = [(image, of_image[image['id']]) for image in coco['images']]
        if len({fold(category['name']) for category in coco['categories']}) < len(
            coco['categories']
        ):
            items = []  # the values of the semantic maps have no one meaning
        for problems in parallel(check, items, f'{subset} {split}'):
            for kind, text in problems:
                findings.problems[kind].append(text)
        findings.images[split] = len(coco['images'])
        findings.objects += len(coco['annotations'])
    return findings


def _check_json(
    split: str,
    coco: dict,
    splits: dict[str, dict],
    seen: dict[str, str],
) -> list[Problem]:
    """Check the json of a split by itself; ``seen`` collects file name -> split."""
    problems = []
    categories = coco['categories']
    if [category['id'] for category in categories] != list(range(len(categories))):
        problems.append(('categories', f'{split}: {[c["id"] for c in categories]}'))
    if categories != splits[SPLITS[0] if SPLITS[0] in splits else split]['categories']:
        problems.append(('categories', f'{split}: other ones than in {SPLITS[0]}'))
    of_name = defaultdict(list)
    for category in categories:
        of_name[fold(category['name'])].append(category)
    problems += [
        (
            'categories',
            f'{split}: the categories {" and ".join(str(each["id"]) for each in alike)} are all '
            f'called {alike[0]["name"]!r}: its images were not checked',
        )
        for alike in of_name.values()
        if len(alike) > 1
    ]
    ids = {image['id'] for image in coco['images']}
    problems += [
        ('annotation', f'{split}, annotation {a["id"]}: no image {a["image_id"]}')
        for a in coco['annotations']
        if a['image_id'] not in ids
    ]
    for image in coco['images']:
        name = image['file_name']
        if seen.setdefault(name, split) != split:
            problems.append(('split', name))
    return problems


def _check_image(
    root: Path, facts: Subset, names: dict[int, str], item: tuple[dict, list[dict]]
) -> list[Problem]:
    image, annotations = item
    path = root / facts.images / image['file_name']
    problems = []
    shape = image['height'], image['width']
    _, problem = _read(read_stored, path, shape)
    if problem:
        problems.append(('image', problem))
    semantic_path = root / facts.semantic / f'{path.stem}.png'
    semantic, problem = _read(read_map, semantic_path, shape)
    if semantic is not None:
        known = {*range(len(names)), BACKGROUND, IGNORED_ON_DISK}
        unknown = sorted({*np.unique(semantic).tolist()} - known)
        if semantic.ndim != 2 or unknown:
            problem = f'{semantic_path}: shape {semantic.shape}, unknown values {unknown[:5]}'
    if problem:
        problems.append(('semantic', problem))
        semantic = None

    places, masks, labels = [], [], []
    for annotation in annotations:
        place = f'{path}, annotation {annotation["id"]}'
        mask, found = _check_annotation(place, annotation, names, shape)
        problems += found
        if mask is not None and not found and not annotation.get('iscrowd', 0):
            places.append(place)
            masks.append(mask)
            labels.append(annotation['category_id'])
    if semantic is not None:
        problems += [
            ('masks on map', f'{place}: none of its pixels has the value {label}')
            for place, mask, label in zip(places, masks, labels)
            if not (semantic[mask > 0] == label).any()
        ]
    rotated_path = root / facts.rotated / (path.stem + facts.rotated_suffix)
    tally = Tally()
    try:
        boxes = read_rotated(rotated_path, names.values(), tally, shape)
    except (ValueError, FileNotFoundError) as error:
        return [*problems, ('rotated', str(error))]
    problems += [('rotated', line) for line in tally.lines()]
    ids = list(names)
    for box in boxes:
        box['bbox_label'] = ids[box['bbox_label']]
    overlaps = _overlaps(boxes, masks, labels, shape)
    for kind, best, where in (
        (
            'boxes on masks',
            overlaps.max(1, initial=0),
            [box['place'] for box in boxes],
        ),
        ('masks in boxes', overlaps.max(0, initial=0), places),
    ):
        problems += [
            (kind, f'{place}: IoU {iou:.2f} at best')
            for place, iou in zip(where, best)
            if iou < MIN_AGREEMENT
        ]
    return problems


def _read(
    read: Callable[[Path], np.ndarray], path: Path, shape: tuple[int, int]
) -> tuple[np.ndarray | None, str | None]:
    """Return the pixels of a file and None, or None and what is wrong with it."""
    try:
        pixels = read(path)
    except ValueError as error:
        return None, str(error)
    found = pixels.shape[:2]
    if read is read_stored and read_orientation(path) > 4:
        found = found[::-1]  # as training rotates it
    if found != shape:
        return None, f'{path}: (height, width) is {found}, in the json {shape}'
    return pixels, None


def _check_annotation(
    place: str,
    annotation: dict,
    names: dict[int, str],
    shape: tuple[int, int],
) -> tuple[np.ndarray | None, list[Problem]]:
    problems = []
    if annotation['category_id'] not in names:
        problems.append(('annotation', f'{place}: no category {annotation["category_id"]}'))
    try:
        check_boxes([annotation], place)
    except UnusableFileError as error:
        return None, [*problems, ('box', str(error))]
    x, y, w, h = annotation['bbox']
    # polygons may exceed the border a little
    if min(w, h) < MIN_SIDE or x < -1 or y < -1 or x + w > shape[1] + 1 or y + h > shape[0] + 1:
        problems.append(('box', f'{place}: (x, y, w, h) = {annotation["bbox"]}'))
    try:
        mask = decode_mask(annotation.get('segmentation'), *shape)
    except Exception as error:  # pycocotools raises plain Exceptions of a dozen kinds
        return None, [*problems, ('mask', f'{place}: {error}')]
    if not mask.any():
        problems.append(('mask', f'{place}: empty'))
    return mask, problems


def _overlaps(
    boxes: list[dict], masks: list[np.ndarray], labels: list[int], shape: tuple[int, int]
) -> np.ndarray:
    """Return the IoU of rotated boxes and of the smallest rectangles around masks.

    Returns:
        float64 ``(boxes, masks)``; 0 for a box and a mask of different classes.
    """
    overlaps = np.zeros((len(boxes), len(masks)))
    quads = np.array([box['bbox'] for box in boxes], float).reshape(-1, 4, 2)
    rectangles = np.array([rectangle(mask) for mask in masks], float).reshape(-1, 4, 2)
    # masks end at the border, boxes may exceed it
    frame = shapely.box(0, 0, shape[1], shape[0])
    quads = shapely.intersection(_hulls(quads), frame)
    rectangles = shapely.intersection(_hulls(rectangles), frame)
    rows, columns = shapely.STRtree(rectangles).query(quads, predicate='intersects')
    alike = (
        np.array([box['bbox_label'] for box in boxes], int)[rows] == np.array(labels, int)[columns]
    )
    rows, columns = rows[alike], columns[alike]
    intersection = shapely.area(shapely.intersection(quads[rows], rectangles[columns]))
    union = shapely.area(quads[rows]) + shapely.area(rectangles[columns]) - intersection
    overlaps[rows, columns] = intersection / np.maximum(union, 1e-6)
    return overlaps


def _hulls(points: np.ndarray) -> np.ndarray:
    """Return convex hulls of points ``(N, 4, 2)``: valid polygons for any order of corners."""
    return shapely.convex_hull(shapely.multipoints(points)) if len(points) else np.empty(0, object)
