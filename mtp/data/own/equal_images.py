"""Equal images, which belong into one split: else figures are of images that were trained on."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from mtp.data.description import SPLITS
from mtp.data.own.contents import Sample


def leave_out_equal(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """Leave images out of training of which another split has an equal file.

    Returns:
        tuple: the images that are left, and a line for each image of which a later split has an
        equal file.
    """
    lines, left_out = [], set()
    for group in equal(samples, lambda sample: sample.split):
        kept = max(group, key=lambda sample: SPLITS.index(sample.split or 'train'))
        for sample in group:
            if sample.split == kept.split:
                continue
            lines.append(
                f'{sample.image} ({sample.split or "no split"}) equals {kept.image} '
                f'({kept.split or "no split"}): leave it in one split, or the figures are of '
                'images that were trained on'
            )
            if sample.split in (None, 'train'):
                left_out.add(id(sample))
    return [sample for sample in samples if id(sample) not in left_out], lines


def equal(samples: Sequence[Sample], part: Callable[[Sample], object]) -> list[list[Sample]]:
    """Return the groups of images with equal files that are in several parts."""
    groups = [list(samples)]
    for mark in (_size, _start, _digest):  # so that few files are read as a whole
        groups = [each for group in groups for each in _alike(group, mark, part)]
    return groups


def _alike(
    samples: Sequence[Sample], mark: Callable[[Path], object], part: Callable[[Sample], object]
) -> list[list[Sample]]:
    """Return the groups of images with one mark that are in several parts."""
    groups: dict[object, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(mark(sample.image), []).append(sample)
    return [group for group in groups.values() if len({part(each) for each in group}) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _start(path: Path) -> bytes:
    with open(path, 'rb') as file:
        return hashlib.blake2b(file.read(1 << 16)).digest()


def _digest(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes()).digest()
