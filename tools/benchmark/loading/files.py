"""Files to measure the loader on: textured images with objects, in the layout of SOTA."""

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtp.data import SUBSETS

FACTS = SUBSETS['sota']
SIDES = 10, 120  # smallest and largest side of an object, pixels in an image of 1024


def make_files(
    root: Path, suffix: str, num: int, size: int, objects: int, textures: list[Path], seed: int = 0
) -> None:
    """Write ``num`` images of ``size`` pixels with ``objects`` each, and all their labels.

    The same arguments give the same images for either suffix, except for JPEG's losses.

    Args:
        root: folder to make.
        suffix: ``'.png'`` or ``'.jpg'`` (quality 90).
        num: number of images.
        size: side of the images, pixels.
        objects: number of objects per image: ellipses at random angles.
        textures: images to cut backgrounds from, which decide how long decoding takes; empty for
            noise of several scales.
        seed: seed of everything.
    """
    for folder in (FACTS.images, FACTS.semantic, FACTS.rotated):
        (root / folder).mkdir(parents=True, exist_ok=True)
    coco = dict(
        images=[],
        annotations=[],
        categories=[dict(id=i, name=name) for i, name in enumerate(FACTS.classes)],
    )
    for number in range(num):
        rng = np.random.default_rng((seed, number))
        image = _cut(textures, rng, size) if textures else _noise(rng, size)
        semantic, lines = np.full((size, size), 255, np.uint8), []
        for _ in range(objects):
            label = int(rng.integers(len(FACTS.classes)))
            centre, angle = rng.uniform(0, size, 2), rng.uniform(0, 180)
            sides = rng.uniform(*SIDES, 2) * size / 1024
            mask = np.zeros((size, size), np.uint8)
            place = centre.round().astype(int).tolist(), (sides / 2).round().astype(int).tolist()
            cv2.ellipse(mask, *place, angle, 0, 360, 1, -1)
            image[mask > 0] = image[mask > 0] // 2 + rng.integers(0, 128, 3, dtype=np.uint8)
            semantic[mask > 0] = label
            coco['annotations'].append(_annotation(mask, label, number, len(coco['annotations'])))
            corners = cv2.boxPoints((centre, sides, angle)).reshape(-1)
            lines.append(' '.join(f'{c:.1f}' for c in corners) + f' {FACTS.classes[label]} 0\n')
        name = f'image_{number}{suffix}'
        coco['images'].append(dict(id=number, file_name=name, height=size, width=size))
        cv2.imwrite(str(root / FACTS.images / name), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(root / FACTS.semantic / f'image_{number}.png'), semantic)
        (root / FACTS.rotated / f'image_{number}.txt').write_text(''.join(lines))
    (root / FACTS.instances.format(split='train')).write_text(json.dumps(coco))


def _annotation(mask: np.ndarray, label: int, image: int, number: int) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return dict(
        id=number,
        image_id=image,
        category_id=label,
        iscrowd=0,
        bbox=coco_mask.toBbox(rle).tolist(),
        area=float(coco_mask.area(rle)),
        segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
    )


def _cut(textures: list[Path], rng: np.random.Generator, size: int) -> np.ndarray:
    """Cut a random window from one of the images, mirrored at its border where it is too small."""
    image = cv2.imread(str(textures[rng.integers(len(textures))]))
    if image is None:
        raise ValueError(f'one of {len(textures)} files given as textures is no image')
    height, width = (max(0, size - side) for side in image.shape[:2])
    image = np.pad(image, ((0, height), (0, width), (0, 0)), 'symmetric')
    top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    image = np.full((size, size, 3), 110, np.float32)
    for scale, strength in ((1, 5), (2, 8), (8, 12), (64, 20)):
        coarse = rng.normal(0, strength, (-(-size // scale), -(-size // scale), 3))
        image += cv2.resize(coarse.astype(np.float32), (size, size))
    return image.clip(0, 255).astype(np.uint8)
