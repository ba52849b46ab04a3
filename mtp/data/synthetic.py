"""A small SAMRS made up: drawn objects on textured ground, in the three true on-disk layouts."""
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtp.data.conversion import SPLITS, dota_line, paint_semantic, samrs_to_coco
from mtp.data.samrs import CORNER_TAGS, SUBSETS, Subset

# Official class names, and the shape that each is drawn with.
CLASSES = {
    'sota': {'plane': 'plane', 'ship': 'ship', 'tennis-court': 'court', 'storage-tank': 'tank'},
    'sior': {'airplane': 'plane', 'vehicle': 'truck', 'basketballcourt': 'court', 'ship': 'ship'},
    'fast': {'Boeing737': 'plane', 'Cargo-Truck': 'truck', 'Roundabout': 'tank',
             'Fishing-Boat': 'ship'},
}

# Ground colours (BGR): fields, soil, concrete, water.
_GROUNDS = ((70, 110, 80), (80, 110, 140), (125, 125, 125), (120, 90, 50))


def make_samrs(root: str | Path, num_train: int = 200, num_valid: int = 40, image_size: int = 128,
               seed: int = 0) -> Path:
    """Write ``SOTA``, ``SIOR`` and ``FAST`` below ``root``, labels, masks, lists and json included.

    Every image shows two to five objects of four classes per subset, turned at random, with a
    long side of 0.18 to 0.42 of the image. Objects have a front, so that an angle is defined up to
    a full turn and a wrong convention cannot be learned away.

    Args:
        root: folder to make; one that holds the same data set is left as it is.
        num_train: images per subset for training.
        num_valid: images per subset for validation.
        image_size: side in pixels.
        seed: everything is a function of it.

    Returns:
        Path: ``root``.

    Raises:
        FileExistsError: ``root`` holds something else.
    """
    root = Path(root)
    request = dict(num_train=num_train, num_valid=num_valid, image_size=image_size, seed=seed)
    stamp = root / 'synthetic.json'
    if stamp.is_file() and json.loads(stamp.read_text()) == request:
        return root
    if root.exists():
        raise FileExistsError(f'{root} holds other data: remove it or choose another folder')
    building = root.with_name(f'{root.name}.partial')
    shutil.rmtree(building, ignore_errors=True)
    for number, subset in enumerate(SUBSETS):
        rng = np.random.default_rng((seed, number))
        _make_subset(building / subset.upper(), subset, rng, (num_train, num_valid), image_size)
    (building / stamp.name).write_text(json.dumps(request))
    building.rename(root)
    return root


def _make_subset(root: Path, subset: str, rng: np.random.Generator, counts: tuple[int, int],
                 size: int) -> None:
    facts, shapes = SUBSETS[subset], CLASSES[subset]
    for folder in (facts.images, facts.semantic, facts.masks, facts.rotated):
        (root / folder).mkdir(parents=True)
    number = 0
    for split, count in zip(SPLITS, counts):
        stems = [f'{subset}_{number + i:05d}' for i in range(count)]
        number += count
        (root / f'{split}.txt').write_text('\n'.join(stems) + '\n')
        for stem in stems:
            _make_image(root, facts, stem, list(shapes.items()), rng, size)
    samrs_to_coco(root, subset, tuple(shapes))


def _make_image(root: Path, facts: Subset, stem: str, shapes: list[tuple[str, str]],
                rng: np.random.Generator, size: int) -> None:
    image = _ground(rng, size)
    masks, labels, boxes = [], [], []
    for placement in _place(rng, size):
        label = int(rng.integers(len(shapes)))
        mask = np.zeros((size, size), np.uint8)
        corners = SHAPES[shapes[label][1]].draw(image, mask, placement, rng)
        masks.append(mask)
        labels.append(label)
        boxes.append((corners, shapes[label][0]))
    image = np.clip(image * rng.uniform(0.85, 1.15) + rng.normal(0, 4, image.shape), 0, 255)
    suffix = '.jpg' if facts.rotated_suffix == '.xml' else '.png'
    cv2.imwrite(str(root / facts.images / (stem + suffix)), image.astype(np.uint8))
    semantic = paint_semantic(masks, labels, (size, size))
    cv2.imwrite(str(root / facts.semantic / f'{stem}.png'), semantic)
    instances = [dict(label=label, mask=coco_mask.encode(np.asfortranarray(mask)))
                 for label, mask in zip(labels, masks)]
    (root / facts.masks / f'{stem}.pkl').write_bytes(pickle.dumps(instances))
    path = root / facts.rotated / (stem + facts.rotated_suffix)
    path.write_text(_as_xml(boxes) if path.suffix == '.xml'
                    else ''.join(dota_line(*box) for box in boxes))


def _as_xml(boxes: list[tuple[np.ndarray, str]]) -> str:
    """DIOR-R's form."""
    root = ElementTree.Element('annotation')
    for corners, name in boxes:
        obj = ElementTree.SubElement(root, 'object')
        ElementTree.SubElement(obj, 'name').text = name
        box = ElementTree.SubElement(obj, 'robndbox')
        for tag, value in zip(CORNER_TAGS, corners.reshape(-1)):
            ElementTree.SubElement(box, tag).text = f'{value:.1f}'
    return ElementTree.tostring(root, encoding='unicode')


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """A ground of patches, float32 BGR ``(size, size, 3)``."""
    first, second = rng.choice(len(_GROUNDS), 2)
    patches = cv2.resize(rng.random((4, 4)).astype(np.float32), (size, size),
                         interpolation=cv2.INTER_CUBIC)[..., None] * 0.5
    ground = np.float32(_GROUNDS[first]) * (1 - patches) + np.float32(_GROUNDS[second]) * patches
    texture = rng.normal(0, 10, (size // 4, size // 4, 1)).astype(np.float32)
    return ground + cv2.resize(texture, (size, size))[..., None]


@dataclass(frozen=True)
class Placement:
    """Where an object lies: centre and length in pixels, angle in radians, clockwise on screen."""
    centre: tuple[float, float]
    length: float
    angle: float

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Points in units of half the length, x along the object, y to its right -> pixels."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = points @ np.float32([[cos, sin], [-sin, cos]])
        return turned * (self.length / 2) + np.float32(self.centre)


def _place(rng: np.random.Generator, size: int) -> list[Placement]:
    """Two to five placements that keep clear of one another and of the border."""
    placements = []
    wanted = rng.integers(2, 6)
    for _ in range(50):
        length = rng.uniform(0.18, 0.42) * size
        centre = rng.uniform(length * 0.52, size - length * 0.52, 2)
        if all(np.hypot(*(centre - other.centre)) > 0.52 * (length + other.length)
               for other in placements):
            placements.append(Placement(tuple(centre), length, rng.uniform(-np.pi, np.pi)))
        if len(placements) == wanted:
            break
    return placements


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.float32(points)


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return _polygon((x1, y1), (x2, y1), (x2, y2), (x1, y2))


def _disc(radius: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.float32(np.stack([np.cos(t), np.sin(t)], 1) * radius)


@dataclass(frozen=True)
class Shape:
    """Polygons with colours (BGR), painted in order; the mask is their union."""
    parts: tuple[tuple[np.ndarray, tuple[int, int, int]], ...]

    def draw(self, image: np.ndarray, mask: np.ndarray, placement: Placement,
             rng: np.random.Generator) -> np.ndarray:
        """Paint on ``image`` and ``mask``; return the corners ``(4, 2)`` of the rotated box."""
        tint = rng.uniform(-15, 15, 3)
        for points, colour in self.parts:
            # in sixteenths of a pixel; OpenCV's pixel centres are at whole numbers
            fixed = np.round((placement.to_pixels(points) - 0.5) * 16).astype(np.int32)
            painted = np.clip(np.array(colour) + tint, 0, 255)
            cv2.fillPoly(image, [fixed], painted.tolist(), cv2.LINE_AA, shift=4)
            cv2.fillPoly(mask, [fixed], 1, shift=4)
        points = np.concatenate([points for points, _ in self.parts])
        return placement.to_pixels(_rectangle(*points.min(0), *points.max(0)))


_WHITE, _GREY, _RED, _YELLOW = (235, 235, 235), (150, 155, 160), (50, 50, 190), (60, 200, 230)

SHAPES: dict[str, Shape] = {
    'plane': Shape((
        (_polygon((0.25, 0.0), (-0.25, 0.95), (-0.5, 0.95), (-0.2, 0.0), (-0.5, -0.95),
                  (-0.25, -0.95)), _WHITE),
        (_polygon((1.0, 0.0), (0.8, 0.14), (-0.8, 0.14), (-1.0, 0.4), (-1.0, -0.4), (-0.8, -0.14),
                  (0.8, -0.14)), _WHITE))),
    'ship': Shape((
        (_polygon((1.0, 0.0), (0.55, 0.26), (-1.0, 0.26), (-1.0, -0.26), (0.55, -0.26)), _RED),
        (_rectangle(-0.85, -0.16, -0.3, 0.16), _WHITE))),
    'truck': Shape((
        (_rectangle(-1.0, -0.3, 0.5, 0.3), _YELLOW), (_rectangle(0.5, -0.3, 1.0, 0.3), (40, 40, 40)))),
    'court': Shape((
        (_rectangle(-1.0, -0.55, 1.0, 0.55), (60, 150, 60)),
        (_rectangle(-0.85, -0.4, 0.85, 0.4), (150, 90, 40)),
        (_rectangle(-0.06, -0.4, 0.06, 0.4), _WHITE), (_rectangle(0.4, -0.06, 0.85, 0.06), _WHITE))),
    'tank': Shape(((_disc(1.0), _GREY), (_disc(0.75), _WHITE), (_disc(0.2), _GREY))),
}
