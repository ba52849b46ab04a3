"""Synthetic images with labelled objects, and their files.

Sizes are in pixels; all random choices are functions of the generator or the seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

import cv2
import numpy as np

from mtp.data.synthetic.shapes import SHAPES, Placement, Shape, make_ground

Class = TypeVar('Class')  # a name, or an id
Drawn = list[tuple[Class, np.ndarray]]  # class, corners (4, 2) in pixels


def draw(
    rng: np.random.Generator,
    size: int,
    classes: Mapping[Class, str],
    count: int,
    lengths: tuple[float, float],
    beyond: float = 0.0,
) -> tuple[np.ndarray, Drawn[Class]]:
    """Draw an image with objects that do not touch.

    Args:
        rng: source of randomness.
        size: side of the image in pixels.
        classes: class -> name of its shape.
        count: number of objects; fewer if they do not fit.
        lengths: smallest and largest long side of an object in pixels.
        beyond: distance in pixels by which centres of objects may be outside the image; the
            objects are cut off there, their boxes are not.

    Returns:
        Image, uint8 BGR ``(size, size, 3)``, and its objects.
    """
    image = make_ground(rng, size)
    names, drawn = list(classes), []
    circles: list[tuple[np.ndarray, float]] = []  # centre, radius
    for _ in range(10 * count):
        name = names[int(rng.integers(len(names)))]
        shape, length = SHAPES[classes[name]], rng.uniform(*lengths)
        radius = shape.radius * length / 2
        margin = min(-beyond if beyond else radius, size / 2)
        centre = rng.uniform(margin, size - margin, 2)
        if all(np.hypot(*(centre - other)) > radius + r for other, r in circles):
            circles.append((centre, radius))
            placement = Placement(tuple(centre), length, rng.uniform(-np.pi, np.pi))
            _paint(image, shape, placement, rng.uniform(-15, 15, 3))
            drawn.append((name, placement.to_pixels(shape.box)))
        if len(drawn) == count:
            break
    image = image * rng.uniform(0.85, 1.15) + rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), drawn


def _paint(image: np.ndarray, shape: Shape, placement: Placement, tint: np.ndarray) -> None:
    """Draw an object in a window of the image: an image is large, an object is not."""
    reach = shape.radius * placement.length / 2 + 1
    first = np.maximum(np.floor(np.array(placement.centre) - reach), 0).astype(int)
    last = np.ceil(np.array(placement.centre) + reach).astype(int)
    window = image[first[1] : last[1], first[0] : last[0]]
    if window.size:
        shape.draw(window, replace(placement, centre=tuple(placement.centre - first)), tint)


def draw_classes(root: Path, classes: Sequence[str], count: int, size: int, seed: int) -> None:
    """Write a folder of images per class; classes differ in colour, stripe width and direction.

    Args:
        root: folder to write to.
        classes: names of the classes.
        count: number of images per class.
        size: side of an image in pixels.
        seed: seed of all random choices.
    """
    for label, name in enumerate(classes):
        rng = np.random.default_rng((seed, label))
        for number in range(1, count + 1):
            colour = cv2.cvtColor(
                np.array([[[180 * label // len(classes), 160, 150]]], np.uint8), cv2.COLOR_HSV2BGR
            )
            y, x = np.mgrid[:size, :size] / size
            angle = np.pi * (label % 3) / 3
            wave = np.sin(
                2 * np.pi * (2 + label % 4 * 2) * (x * np.cos(angle) + y * np.sin(angle))
                + rng.uniform(0, 6)
            )
            image = colour + 25 * np.sign(wave)[..., None] + 0.2 * make_ground(rng, size) - 20
            write_image(root / name / f'{name}_{number}.jpg', image)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image; values of other types than uint8 and uint16 are clipped to 0..255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), pixels)


def nest(parent: ElementTree.Element, **children: str | dict[str, str]) -> None:
    """Add child elements to an xml element: each has a text, or children of its own."""
    for tag, content in children.items():
        child = ElementTree.SubElement(parent, tag)
        if isinstance(content, dict):
            nest(child, **content)
        else:
            child.text = content
