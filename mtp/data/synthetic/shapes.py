"""Drawn objects and textured ground, of which synthetic images consist."""

from dataclasses import dataclass

import cv2
import numpy as np

# Ground colours (BGR): fields, soil, concrete, water.
_GROUNDS = ((70, 110, 80), (80, 110, 140), (125, 125, 125), (120, 90, 50))


def make_ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw patchy, textured ground: float32 BGR ``(size, size, 3)``."""
    first, second = rng.choice(len(_GROUNDS), 2)
    patches = (
        cv2.resize(
            rng.random((4, 4)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )[..., None]
        * 0.5
    )
    one, other = np.array(_GROUNDS[first], np.float32), np.array(_GROUNDS[second], np.float32)
    ground = one * (1 - patches) + other * patches
    texture = rng.normal(0, 10, (size // 4, size // 4, 1)).astype(np.float32)
    return ground + cv2.resize(texture, (size, size))[..., None]


@dataclass(frozen=True)
class Placement:
    """Place of an object: centre and length in pixels, angle in radians, clockwise on screen."""

    centre: tuple[float, float]
    length: float
    angle: float

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Convert points in half lengths, x along the object, y to its right, to pixels."""
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
    """Polygons with colours (BGR), painted in order; x points to the front, the length is 2."""

    parts: tuple[tuple[np.ndarray, tuple[int, int, int]], ...]

    @property
    def box(self) -> np.ndarray:
        """Corners ``(4, 2)`` of the rectangle around all parts."""
        points = np.concatenate([points for points, _ in self.parts])
        return _rectangle(*points.min(0), *points.max(0))

    @property
    def radius(self) -> float:
        """Distance from the centre to the corners of the box."""
        return float(np.linalg.norm(self.box, axis=1).max())

    def draw(self, image: np.ndarray, placement: Placement, tint: np.ndarray) -> np.ndarray:
        """Paint on ``image``; return the mask, uint8 ``(H, W)``: pixels covered at least half."""
        outline = np.zeros(image.shape[:2], np.float32)
        for points, colour in self.parts:
            covered = _coverage(placement.to_pixels(points), image.shape[:2])
            outline = np.maximum(outline, covered)
            image += (np.clip(colour + tint, 0, 255) - image) * covered[..., None]
        return (outline >= 0.5).astype(np.uint8)


def _coverage(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the share, 0..1, of each pixel that a polygon covers, float32 ``(H, W)``."""
    # OpenCV paints the outline too, which is an eighth of a pixel at this scale
    scale, shift = 4, 4
    large = np.zeros((shape[0] * scale, shape[1] * scale), np.uint8)
    # its pixel centres are at integers, ours at halves
    fixed = np.round((polygon * scale - 0.5) * 2**shift).astype(np.int32)
    cv2.fillPoly(large, [fixed], 255, shift=shift)
    return cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def place(shapes: list[Shape], rng: np.random.Generator, size: int) -> list[tuple[int, Placement]]:
    """Place two to five objects, apart from each other and from the border.

    Returns:
        Index of the shape and placement of each object.
    """
    placed: list[tuple[int, Placement]] = []
    circles: list[tuple[np.ndarray, float]] = []  # centre, radius
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
    'plane': Shape(
        (
            (
                _polygon(
                    (0.5, 0.0), (0.1, 0.7), (-0.15, 0.7), (-0.1, 0.0), (-0.15, -0.7), (0.1, -0.7)
                ),
                _WHITE,
            ),
            (
                _polygon(
                    (1.0, 0.08),
                    (0.8, 0.15),
                    (-0.7, 0.12),
                    (-0.8, 0.45),
                    (-1.0, 0.45),
                    (-1.0, -0.45),
                    (-0.8, -0.45),
                    (-0.7, -0.12),
                    (0.8, -0.15),
                    (1.0, -0.08),
                ),
                _WHITE,
            ),
        )
    ),
    'ship': Shape(
        (
            (_polygon((1.0, 0.0), (0.55, 0.26), (-1.0, 0.26), (-1.0, -0.26), (0.55, -0.26)), _RED),
            (_rectangle(-0.85, -0.16, -0.3, 0.16), _WHITE),
        )
    ),
    'truck': Shape(
        (
            (_rectangle(-1.0, -0.3, 0.5, 0.3), _YELLOW),
            (_rectangle(0.5, -0.3, 1.0, 0.3), (40, 40, 40)),
        )
    ),
    'court': Shape(
        (
            (_rectangle(-1.0, -0.55, 1.0, 0.55), (60, 150, 60)),
            (_rectangle(-0.85, -0.4, 0.85, 0.4), (150, 90, 40)),
            (_rectangle(-0.06, -0.4, 0.06, 0.4), _WHITE),
            (_rectangle(0.4, -0.06, 0.85, 0.06), _WHITE),
        )
    ),
    'tank': Shape(((_disc(1.0), _GREY), (_disc(0.75), _WHITE), (_disc(0.2), _GREY))),
}
BUILDINGS = [SHAPES['court'], SHAPES['tank'], SHAPES['truck']]
