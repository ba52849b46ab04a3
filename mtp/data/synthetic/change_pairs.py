"""Synthetic pairs of images for change detection."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtp.data.synthetic.drawing import write_image
from mtp.data.synthetic.shapes import BUILDINGS, Placement, make_ground

SPLITS = ('train', 'val', 'test')


def make_splits(
    top: str,
    names: Sequence[str],
    suffix: str,
    size: int,
    counts: Sequence[int],
    root: str | Path,
    seed: int = 0,
) -> Path:
    """Write pairs of three splits: ``<top>/{train,val,test}/<name>/*<suffix>``.

    Args:
        top: folder of the splits, relative to ``root``.
        names: folders of the earlier date, the later date and the label.
        suffix: suffix of all files.
        size: side of an image in pixels.
        counts: number of pairs of each split.
        root: folder to write to.
        seed: seed of all random choices.

    Returns:
        Path: ``root``.
    """
    root, rng = Path(root), np.random.default_rng(seed)
    for split, count in zip(SPLITS, counts):
        for number in range(1, count + 1):
            for name, part in zip(names, draw_pair(rng, size, max(4, size // 64))):
                pixels = part * np.uint8(255) if name == names[2] else part
                write_image(root / top / split / name / f'{split}_{number}{suffix}', pixels)
    return root


def draw_pair(
    rng: np.random.Generator,
    size: int,
    count: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw two dates, float32 BGR ``(S, S, 3)``, and uint8 ``(S, S)`` 1 where a building was added.

    A third of the buildings exist at both dates; the light and the colour of the ground change.
    """
    before = make_ground(rng, size)
    after = before * rng.uniform(0.85, 1.15) + rng.normal(0, 5, 3)
    changed = np.zeros((size, size), np.uint8)
    for number in range(count):
        shape = BUILDINGS[int(rng.integers(len(BUILDINGS)))]
        length = rng.uniform(20, 50)
        centre = rng.uniform(length, size - length, 2)
        # drawn in a window: a scene is large, a building is not
        window = tuple(slice(int(c - length), int(c + length)) for c in centre[::-1])
        corner = np.array([side.start for side in window[::-1]])
        placement = Placement(tuple(centre - corner), length, rng.uniform(-np.pi, np.pi))
        tint = rng.uniform(-15, 15, 3)
        mask = shape.draw(after[window], placement, tint)
        if number % 3 == 0:
            shape.draw(before[window], placement, tint)
            changed[window][mask > 0] = 0
        else:
            changed[window] |= mask
    return before, after, changed
