"""Division of images into training and validation: by scene, with classes in equal shares."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mtp.files import UnusableFileError

SPLIT_NAMES = ('train', 'val')


def scene_of(pattern: str | None) -> Callable[[Path], str]:
    """Return the function that gives the scene of an image, all of which goes into one split.

    Args:
        pattern: regular expression that is searched in the name without suffix; its first group, or
            all of the match, is the scene. None for the name before ``__``, as tiles have it.

    Raises:
        ValueError: the pattern is no regular expression.
    """
    try:
        compiled = re.compile(pattern if pattern is not None else r'^(.+?)(?:__.*)?$')
    except re.error as error:
        raise ValueError(f'--group {pattern!r} is no regular expression: {error}') from error

    def scene(path: Path) -> str:
        match = compiled.search(path.stem)
        if match is None:
            raise UnusableFileError(
                f'{path}: --group {pattern!r} does not match {path.stem!r}: give a pattern that '
                'every name has'
            )
        return match[1] if match.groups() else match[0]

    return scene


def divide(
    counts: Mapping[str, Counter[str]], sizes: Mapping[str, int], train: float, seed: int
) -> dict[str, str]:
    """Divide scenes, so that each split has its share of each class; return scene -> split.

    Iterative stratification (Sechidis et al., "On the Stratification of Multi-label Data", ECML
    PKDD 2011): the class with the fewest objects that are left is dealt out first.

    Args:
        counts: scene -> number of objects of each class.
        sizes: scene -> number of its images.
        train: share of the training split, between 0 and 1.
        seed: seed of the order among equals.

    Raises:
        ValueError: the share is not between 0 and 1, or there are fewer than two scenes.
    """
    if not 0 < train < 1:
        raise ValueError(f'--split {train:g}: give the share for training, between 0 and 1')
    if len(sizes) < 2:
        raise ValueError(
            f'all images are of one scene ({next(iter(sizes), "none")}), and stays whole: give '
            '--group REGEX for smaller groups, or --tile to divide one large scene into blocks'
        )
    shares = dict(zip(SPLIT_NAMES, (train, 1 - train)))
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    totals: Counter[str] = sum((counts[scene] for scene in order), Counter())
    wanted = {
        split: {name: share * count for name, count in totals.items()}
        for split, share in shares.items()
    }
    room = {split: share * sum(sizes.values()) for split, share in shares.items()}
    waiting, result = dict.fromkeys(order), {}
    while waiting:
        left: Counter[str] = sum((counts[scene] for scene in waiting), Counter())
        rarest = min(left, key=lambda name: (left[name], name)) if left else None
        for scene in [s for s in waiting if rarest is None or counts[s][rarest]]:
            split = max(
                SPLIT_NAMES,
                key=lambda name: (wanted[name].get(rarest or '', 0), room[name], name == 'train'),
            )
            result[scene] = split
            del waiting[scene]
            room[split] -= sizes[scene]
            for name, count in counts[scene].items():
                wanted[split][name] -= count
    _fill(result, sizes, SPLIT_NAMES)
    return result


def _fill(result: dict[str, str], sizes: Mapping[str, int], splits: Sequence[str]) -> None:
    """Give an empty split the smallest scene of the other."""
    for split in splits:
        if split not in result.values():
            result[min(result, key=lambda scene: (sizes[scene], scene))] = split


def blocks(length: int, tiles: Sequence[tuple[int, int]], train: float) -> list[str | None]:
    """Divide the tiles of one scene into two blocks; None for those in the gap between them.

    Args:
        length: length of the scene's longer side in pixels.
        tiles: start and end of each tile along that side, in pixels.
        train: share of the training block, between 0 and 1.
    """
    border = train * length
    return [
        'train' if end <= border else 'val' if start >= border else None for start, end in tiles
    ]


def counted(pairs: Sequence[tuple[str, Sequence[str]]]) -> tuple[dict, dict]:
    """Return the class counts and the number of images of each scene.

    Args:
        pairs: scene and class names of the objects of each image.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sizes: Counter[str] = Counter()
    for scene, names in pairs:
        counts[scene].update(names)
        sizes[scene] += 1
    return dict(counts), dict(sizes)
