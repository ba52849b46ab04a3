"""Objects of a COCO json, taken by one rule for all readers."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mtp.data.box_rules import find_unusable
from mtp.data.class_names import ClassNames
from mtp.data.run_lengths import encode_mask
from mtp.data.tally import Tally
from mtp.files import UnusableFileError

IGNORED = 'objects with "ignore"'


def match_categories(
    coco: dict[str, Any], names: ClassNames, path: object, tally: Tally
) -> dict[int | str, int]:
    """Match the categories of a json with the classes, by their names.

    Args:
        coco: content of the json, as :func:`mtp.data.label_files.read_coco` returns it.
        names: classes of the data set.
        path: path of the json, for messages.
        tally: counts of the reader, for notes of what differs.

    Returns:
        dict: id of a category -> label, from 0.

    Raises:
        UnusableFileError: a category that is no class has objects, or no category is a class.
    """
    objects = Counter(annotation['category_id'] for annotation in coco['annotations'])
    labels: dict[int | str, int] = {}
    of_label = defaultdict(list)
    for category in coco['categories']:
        number, name = category['id'], category['name']
        if objects[number]:
            label: int | None = names.label(
                name, f'{path}, category {number}, of {objects[number]:,} objects'
            )
        else:
            label = names.find(name)
        if label is None:
            tally.note(f'{path}: the category {name!r} is no class, and has no objects')
        elif number not in labels:
            labels[number] = label
            of_label[label].append(str(number))
    if coco['categories'] and not labels:
        found = ', '.join(repr(category['name']) for category in coco['categories'])
        raise UnusableFileError(
            f'{path}: none of its categories ({found:.200}) is a class; the classes are '
            f'{", ".join(names.classes)}'
        )
    for label, name in enumerate(names.classes):
        if label not in of_label:
            tally.note(f'{path} has no category for the class {name!r}')
        elif len(of_label[label]) > 1:
            tally.note(
                f'{path}: the categories {" and ".join(of_label[label])} are read as one class, '
                f'{name!r}'
            )
    return labels


def by_image(coco: dict[str, Any], path: object) -> dict[int | str, list[dict]]:
    """Return the annotations of each image, id of the image -> annotations in the json's order.

    Raises:
        UnusableFileError: an annotation is of no image or of no category of the json.
    """
    found: dict[int | str, list[dict]] = {image['id']: [] for image in coco['images']}
    categories = {category['id'] for category in coco['categories']}
    for annotation in coco['annotations']:
        for kind, known in (('image', found), ('category', categories)):
            if annotation[f'{kind}_id'] not in known:
                raise UnusableFileError(
                    f'{path}, annotation {annotation["id"]}: no {kind} '
                    f'{annotation[f"{kind}_id"]}: correct or remove it'
                )
        found[annotation['image_id']].append(annotation)
    return found


def check_stems(images: Sequence[dict], path: object) -> None:
    """Refuse images whose names differ in folder or suffix only: label files go by the stem.

    Raises:
        UnusableFileError: two images have one stem.
    """
    seen: dict[str, str] = {}
    for image in images:
        name = image['file_name']
        other = seen.setdefault(PurePosixPath(name).stem, name)
        if other != name:
            raise UnusableFileError(
                f'{path}: the images {other!r:.80} and {name!r:.80} have one stem, by which their '
                'labels go: rename one of them'
            )


def take_objects(
    image: dict, annotations: Sequence[dict], path: object, tally: Tally
) -> list[dict]:
    """Return the annotations that are used, crowds included; count the others.

    Args:
        image: image of the json.
        annotations: its annotations, whose boxes have been checked.
        path: path of the json, to name what is left out.
        tally: counts of the reader.
    """
    if not annotations:
        return []
    boxes = np.array([annotation['bbox'] for annotation in annotations], np.float64)
    x1, y1, x2, y2 = *boxes[:, :2].T, *(boxes[:, :2] + boxes[:, 2:]).T
    corners = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1).reshape(-1, 4, 2)
    reasons = find_unusable(corners, (image['height'], image['width']), rotated=False)
    used = []
    for annotation, reason in zip(annotations, reasons):
        reason = IGNORED if annotation.get('ignore') else reason
        if reason is None:
            used.append(annotation)
        else:
            place = f'{path}, annotation {annotation["id"]} of {image["file_name"]}'
            tally.leave_out(reason, place)
    return used


def count_objects(labels: Sequence[int], crowd: Sequence[bool], names: ClassNames) -> Tally:
    """Return the counts of an image with these objects.

    Args:
        labels: label of each object.
        crowd: whether each object is a crowd.
        names: classes of the data set.
    """
    classes = Counter(names.classes[label] for label, many in zip(labels, crowd) if not many)
    crowds = len(labels) - classes.total()
    return Tally(
        1, classes.total(), classes, ignored=Counter(crowds=crowds) if crowds else Counter()
    )


def find_area(annotation: dict, image: dict, path: object) -> float:
    """Return the area of an object in pixels: as given, else that of its mask or of its box.

    An area that is not positive, or larger than the image, counts as not given.

    Raises:
        UnusableFileError: the area is not given, and the mask cannot be read.
    """
    area = annotation.get('area') or 0
    size = image['height'], image['width']
    if 0 < area <= size[0] * size[1]:
        return area
    if not annotation.get('segmentation'):
        return float(np.prod(annotation['bbox'][2:]))
    try:
        return float(coco_mask.area(encode_mask(annotation['segmentation'], *size)))
    except ValueError as error:
        raise UnusableFileError(
            f'{path}, annotation {annotation["id"]} of {image["file_name"]}: {error}. Correct or '
            'remove it'
        ) from error
