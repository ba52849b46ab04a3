"""A small synthetic SAMRS: drawn objects on textured ground, in the three original layouts."""

import json
import pickle
import shutil
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtp.data.formats.object_xml import CORNER_TAGS
from mtp.data.samrs.subsets import SUBSETS, Subset
from mtp.data.samrs.to_coco import SPLITS, dota_line, paint_semantic, samrs_to_coco
from mtp.data.synthetic.shapes import SHAPES, make_ground, place

# Official class name -> the shape that it is drawn with.
CLASSES = {
    'sota': {'plane': 'plane', 'ship': 'ship', 'tennis-court': 'court', 'storage-tank': 'tank'},
    'sior': {'airplane': 'plane', 'vehicle': 'truck', 'basketballcourt': 'court', 'ship': 'ship'},
    'fast': {
        'Boeing737': 'plane',
        'Cargo-Truck': 'truck',
        'Roundabout': 'tank',
        'Fishing-Boat': 'ship',
    },
}


def make_samrs(
    root: str | Path,
    num_train: int = 200,
    num_valid: int = 40,
    image_size: int = 128,
    seed: int = 0,
) -> Path:
    """Write ``SOTA``, ``SIOR`` and ``FAST`` below ``root``, labels, masks, lists and json included.

    Every image shows two to five objects of the subset's four classes, rotated at random, with a
    long side of 0.18 to 0.42 of the image. Most are elongated: a model or a loader with a wrong
    angle convention does not find them.

    Args:
        root: folder to make; one that holds the same data set is left as it is.
        num_train: number of training images per subset.
        num_valid: number of validation images per subset.
        image_size: side of an image in pixels, at least 64.
        seed: seed of all random choices.

    Returns:
        Path: ``root``.

    Raises:
        FileExistsError: ``root`` holds something else.
        ValueError: there is no training image, or the images are too small.
    """
    root = Path(root)
    if num_train < 1 or num_valid < 0 or image_size < 64:
        raise ValueError(
            f'num_train={num_train}, num_valid={num_valid}, image_size={image_size}: '
            'at least 1, 0 and 64 are needed'
        )
    request = dict(num_train=num_train, num_valid=num_valid, image_size=image_size, seed=seed)
    stamp = root / 'synthetic.json'
    if stamp.is_file() and json.loads(stamp.read_text()) == request:
        return root
    if root.exists():
        raise FileExistsError(
            f'{root} exists, but was not made with {request}: remove it or choose another folder'
        )
    building = root.with_name(f'{root.name}.partial')
    shutil.rmtree(building, ignore_errors=True)
    for number, subset in enumerate(SUBSETS):
        rng = np.random.default_rng((seed, number))
        _make_subset(building / subset.upper(), subset, rng, (num_train, num_valid), image_size)
    (building / stamp.name).write_text(json.dumps(request))
    building.rename(root)
    return root


def _make_subset(
    root: Path, subset: str, rng: np.random.Generator, counts: tuple[int, int], size: int
) -> None:
    facts, classes = SUBSETS[subset], CLASSES[subset]
    for folder in (facts.images, facts.semantic, facts.masks, facts.rotated):
        (root / folder).mkdir(parents=True)
    number = 0
    for split, count in zip(SPLITS, counts):
        stems = [f'{subset}_{number + i:05d}' for i in range(count)]
        number += count
        (root / f'{split}.txt').write_text(''.join(f'{stem}\n' for stem in stems))
        for stem in stems:
            _make_image(root, facts, stem, classes, rng, size)
    samrs_to_coco(root, subset, tuple(classes))


def _make_image(
    root: Path,
    facts: Subset,
    stem: str,
    classes: dict[str, str],
    rng: np.random.Generator,
    size: int,
) -> None:
    image = make_ground(rng, size)
    names = list(classes)
    masks, labels, boxes = [], [], []
    for label, placement in place([SHAPES[shape] for shape in classes.values()], rng, size):
        shape = SHAPES[classes[names[label]]]
        masks.append(shape.draw(image, placement, tint=rng.uniform(-15, 15, 3)))
        labels.append(label)
        boxes.append((placement.to_pixels(shape.box), names[label]))
    image = np.clip(image * rng.uniform(0.85, 1.15) + rng.normal(0, 4, image.shape), 0, 255)
    suffix = '.jpg' if facts.rotated_suffix == '.xml' else '.png'
    cv2.imwrite(str(root / facts.images / (stem + suffix)), image.astype(np.uint8))
    semantic = paint_semantic(masks, labels, (size, size))
    cv2.imwrite(str(root / facts.semantic / f'{stem}.png'), semantic)
    instances = [
        dict(label=label, mask=coco_mask.encode(np.asfortranarray(mask)))
        for label, mask in zip(labels, masks)
    ]
    (root / facts.masks / f'{stem}.pkl').write_bytes(pickle.dumps(instances))
    path = root / facts.rotated / (stem + facts.rotated_suffix)
    path.write_text(
        _as_xml(boxes) if path.suffix == '.xml' else ''.join(dota_line(*box) for box in boxes)
    )


def _as_xml(boxes: list[tuple[np.ndarray, str]]) -> str:
    """Return the boxes in DIOR-R's xml format."""
    root = ElementTree.Element('annotation')
    for corners, name in boxes:
        obj = ElementTree.SubElement(root, 'object')
        ElementTree.SubElement(obj, 'name').text = name
        box = ElementTree.SubElement(obj, 'robndbox')
        for tag, value in zip(CORNER_TAGS, corners.reshape(-1)):
            ElementTree.SubElement(box, tag).text = f'{value:.1f}'
    return ElementTree.tostring(root, encoding='unicode')
