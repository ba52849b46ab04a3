"""Whether a data root holds what its labels say."""
import json
from collections import defaultdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mtp.data.conversion import SPLITS, parallel, rectangle
from mtp.data.samrs import SUBSETS, Subset, read_rotated
from mtp.data.transforms import decode_mask

# Each object's rotated box should overlap the rectangle around its mask by this much. SAMRS' masks
# were predicted from boxes, and a box may hold more than was segmented.
_AGREEMENT = 0.3

CHECKS = {
    'image': 'the image opens and has the recorded size',
    'semantic': 'the semantic map opens, has the size of the image and only known labels',
    'category': 'every annotation has a known category',
    'box': 'every box has an extent and lies inside the image',
    'mask': 'every mask has a pixel',
    'rotated': 'the rotated boxes can be read and have known classes and areas',
    'agreement': 'every rotated box lies on a mask',
}


def check_subset(root: Path, subset: str) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Check all images of a subset, on all cores.

    Args:
        root: of the subset.
        subset: whose layout; classes are the json's categories.

    Returns:
        Images per split, and check (a key of ``CHECKS``) -> what is wrong and where.

    Raises:
        FileNotFoundError: there is no json.
        ValueError: a json has no categories, or the splits' categories differ.
    """
    facts = SUBSETS[subset]
    counts, problems, categories = {}, defaultdict(list), None
    for split in SPLITS:
        path = root / facts.instances.format(split=split)
        if not path.is_file():
            continue
        coco = json.loads(path.read_text())
        if categories not in (None, coco['categories']) or not coco['categories']:
            raise ValueError(f'{path}: its categories are empty or not those of the other split')
        categories = coco['categories']
        of_image = defaultdict(list)
        for annotation in coco['annotations']:
            of_image[annotation['image_id']].append(annotation)
        items = [(image, of_image[image['id']]) for image in coco['images']]
        check = partial(_check_image, root, facts, [c['name'] for c in categories],
                        {c['id'] for c in categories})
        for found in parallel(check, items, f'{subset} {split}'):
            for kind, text in found:
                problems[kind].append(text)
        counts[split] = len(items)
    if not counts:
        raise FileNotFoundError(f'no {facts.instances} in {root}: make it with '
                                f'`python tools/data/samrs_to_coco.py {root.parent}`')
    return counts, dict(problems)


def _check_image(root: Path, facts: Subset, classes: list[str], category_ids: set[int],
                 item: tuple[dict, list[dict]]) -> list[tuple[str, str]]:
    image, annotations = item
    stem = Path(image['file_name']).stem
    height, width = image['height'], image['width']
    found = _check_rasters(root, facts, image, stem, len(classes))

    rectangles = []
    for annotation in annotations:
        where = f'{image["file_name"]}, annotation {annotation["id"]}'
        if annotation['category_id'] not in category_ids:
            found.append(('category', f'{where}: category {annotation["category_id"]}'))
        x, y, w, h = annotation['bbox']
        if w <= 0 or h <= 0 or x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
            found.append(('box', f'{where}: {annotation["bbox"]}'))
        mask = decode_mask(annotation['segmentation'], height, width)
        if mask.any():
            rectangles.append(rectangle(mask))
        else:
            found.append(('mask', where))

    path = root / facts.rotated / (stem + facts.rotated_suffix)
    try:
        boxes = read_rotated(path, {name: i for i, name in enumerate(classes)})
    except (ValueError, FileNotFoundError) as error:
        return [*found, ('rotated', str(error))]
    for number, box in enumerate(boxes, 1):
        corners = np.array(box['bbox'], np.float32).reshape(4, 2)
        overlap = max((_overlap(corners, other) for other in rectangles), default=0.0)
        if overlap < _AGREEMENT:
            found.append(('agreement', f'{path.name}, box {number}: overlaps masks by '
                                       f'{overlap:.2f} at most'))
    return found


def _check_rasters(root: Path, facts: Subset, image: dict, stem: str,
                   num_classes: int) -> list[tuple[str, str]]:
    found = []
    size = (image['width'], image['height'])
    for kind, path in (('image', root / facts.images / image['file_name']),
                       ('semantic', root / facts.semantic / f'{stem}.png')):
        try:
            with Image.open(path) as opened:
                pixels = np.asarray(opened)
            if opened.size != size:
                found.append((kind, f'{path}: {opened.size} pixels, recorded are {size}'))
            elif kind == 'semantic':
                unknown = set(np.unique(pixels)) - {*range(num_classes), 255}
                if unknown or pixels.ndim != 2:
                    found.append((kind, f'{path}: values {sorted(map(int, unknown))}, shape '
                                        f'{pixels.shape}'))
        except OSError as error:
            found.append((kind, f'{path}: {error}'))
    return found


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two convex quadrilaterals."""
    first, second = cv2.convexHull(first), cv2.convexHull(second)
    intersection, _ = cv2.intersectConvexConvex(first, second)
    union = cv2.contourArea(first) + cv2.contourArea(second) - intersection
    return intersection / union if union > 0 else 0.0
