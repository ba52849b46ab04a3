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

from mtp.data.rotated_labels import CORNER_TAGS
from mtp.data.samrs.subsets import SUBSETS, Subset
from mtp.data.samrs.to_coco import SPLITS, dota_line, paint_semantic, samrs_to_coco

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
    long side of 0.18 to 0.42 of the image. Most are elongated: a model or a loader with a wrong
    angle convention does not find them.

    Args:
        root: folder to make; one that holds the same data set is left as it is.
        num_train: images per subset for training.
        num_valid: images per subset for validation.
        image_size: side in pixels, 64 at least.
        seed: everything is a function of it.

    Returns:
        Path: ``root``.

    Raises:
        FileExistsError: ``root`` holds something else.
        ValueError: no training image, or images too small to show anything.
    """
    root = Path(root)
    if num_train < 1 or num_valid < 0 or image_size < 64:
        raise ValueError(f'num_train={num_train}, num_valid={num_valid}, image_size={image_size}: '
                         'at least 1, 0 and 64 are needed')
    request = dict(num_train=num_train, num_valid=num_valid, image_size=image_size, seed=seed)
    stamp = root / 'synthetic.json'
    if stamp.is_file() and json.loads(stamp.read_text()) == request:
        return root
    if root.exists():
        raise FileExistsError(f'{root} exists, but not made with {request}: remove it or choose '
                              'another folder')
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


def _make_image(root: Path, facts: Subset, stem: str, classes: dict[str, str],
                rng: np.random.Generator, size: int) -> None:
    image = _ground(rng, size)
    names = list(classes)
    masks, labels, boxes = [], [], []
    for label, placement in _place([SHAPES[shape] for shape in classes.values()], rng, size):
        shape = SHAPES[classes[names[label]]]
        masks.append(shape.draw(image, placement, tint=rng.uniform(-15, 15, 3)))
        labels.append(label)
        boxes.append((placement.to_pixels(shape.box), names[label]))
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
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        return turned * (self.length / 2) + np.array(self.centre)


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points)


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return _polygon((x1, y1), (x2, y1), (x2, y2), (x1, y2))


def _disc(radius: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], 1) * radius


@dataclass(frozen=True)
class Shape:
    """Polygons with colours (BGR), painted in order; x points to the front, length 2."""
    parts: tuple[tuple[np.ndarray, tuple[int, int, int]], ...]

    @property
    def box(self) -> np.ndarray:
        """Corners ``(4, 2)`` of the rectangle around all parts."""
        points = np.concatenate([points for points, _ in self.parts])
        return _rectangle(*points.min(0), *points.max(0))

    @property
    def radius(self) -> float:
        """From the centre to the corners of the box."""
        return float(np.linalg.norm(self.box, axis=1).max())

    def draw(self, image: np.ndarray, placement: Placement, tint: np.ndarray) -> np.ndarray:
        """Paint on ``image``; return the mask, uint8 ``(H, W)``: pixels covered by a half."""
        outline = np.zeros(image.shape[:2], np.float32)
        for points, colour in self.parts:
            covered = _coverage(placement.to_pixels(points), image.shape[:2])
            outline = np.maximum(outline, covered)
            image += (np.clip(colour + tint, 0, 255) - image) * covered[..., None]
        return (outline >= 0.5).astype(np.uint8)


def _coverage(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Share, 0..1, of each pixel that a polygon covers, float32 ``(H, W)``."""
    # OpenCV paints the outline too: at this scale that is an eighth of a pixel
    scale, shift = 4, 4
    large = np.zeros((shape[0] * scale, shape[1] * scale), np.uint8)
    # its pixel centres are at whole numbers, ours at halves
    fixed = np.round((polygon * scale - 0.5) * 2**shift).astype(np.int32)
    cv2.fillPoly(large, [fixed], 255, shift=shift)
    return cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _place(shapes: list[Shape], rng: np.random.Generator, size: int) -> list[tuple[int, Placement]]:
    """Two to five objects (index of the shape, place), clear of one another and of the border."""
    placed, circles = [], []
    wanted = rng.integers(2, 6)
    while len(placed) < wanted:
        label = int(rng.integers(len(shapes)))
        for _ in range(20):
            length = rng.uniform(0.18, 0.42) * size
            radius = shapes[label].radius * length / 2
            centre = rng.uniform(radius, size - radius, 2)
            if all(np.hypot(*(centre - other)) > radius + r for other, r in circles):
                break
        else:
            wanted -= 1
            continue
        circles.append((centre, radius))
        placed.append((label, Placement(tuple(centre), length, rng.uniform(-np.pi, np.pi))))
    return placed


_WHITE, _GREY, _RED, _YELLOW = (235, 235, 235), (150, 155, 160), (50, 50, 190), (60, 200, 230)

SHAPES: dict[str, Shape] = {
    'plane': Shape((
        (_polygon((0.5, 0.0), (0.1, 0.7), (-0.15, 0.7), (-0.1, 0.0), (-0.15, -0.7), (0.1, -0.7)),
         _WHITE),
        (_polygon((1.0, 0.08), (0.8, 0.15), (-0.7, 0.12), (-0.8, 0.45), (-1.0, 0.45),
                  (-1.0, -0.45), (-0.8, -0.45), (-0.7, -0.12), (0.8, -0.15), (1.0, -0.08)),
         _WHITE))),
    'ship': Shape((
        (_polygon((1.0, 0.0), (0.55, 0.26), (-1.0, 0.26), (-1.0, -0.26), (0.55, -0.26)), _RED),
        (_rectangle(-0.85, -0.16, -0.3, 0.16), _WHITE))),
    'truck': Shape((
        (_rectangle(-1.0, -0.3, 0.5, 0.3), _YELLOW),
        (_rectangle(0.5, -0.3, 1.0, 0.3), (40, 40, 40)))),
    'court': Shape((
        (_rectangle(-1.0, -0.55, 1.0, 0.55), (60, 150, 60)),
        (_rectangle(-0.85, -0.4, 0.85, 0.4), (150, 90, 40)),
        (_rectangle(-0.06, -0.4, 0.06, 0.4), _WHITE),
        (_rectangle(0.4, -0.06, 0.85, 0.06), _WHITE))),
    'tank': Shape(((_disc(1.0), _GREY), (_disc(0.75), _WHITE), (_disc(0.2), _GREY))),
}
