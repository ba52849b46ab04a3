"""What `faults.py` does to which recipe."""

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

# Name of a recipe -> its data set; None for pretraining.
RECIPES: dict[str, str | None] = {
    'pretraining': None,
    'mmpretrain': 'eurosat',
    'mmdet': 'dior',
    'mmrotate': 'dior_r',
    'mmseg': 'spacenet_v1',
    'mmseg change': 'levir',
}
# Moments within the writing of a checkpoint.
WRITING = ('data', 'file', 'checksum', 'pointer')
KILLS = ('kill one rank', 'kill all ranks', 'kill in writing')
DAMAGE = {
    'checkpoint damaged': ('cut', 'flipped', 'empty', 'missing', 'checksum garbage'),
    'pointer damaged': ('empty', 'garbage', 'missing', 'names a missing one'),
    'index damaged': ('cut', 'flipped', 'empty'),
}
# Kind -> what becomes NaN, on which rank, in which batch of the update.
NAN: dict[str, dict[str, Any]] = {
    'NaN in a gradient': dict(kind='gradient'),
    'NaN in an activation': dict(kind='activation'),
    'NaN in a pixel': dict(kind='pixel'),
    'NaN on one rank': dict(kind='activation', rank=1),
    'NaN in a micro-batch': dict(kind='pixel', rank=1, batch=1),
}
NAN_STEP = 4
# Where a data set lists the files of a folder, a missing one is not in it.
IMAGES = {
    'image damaged': tuple(RECIPES),
    'image missing': ('pretraining', 'mmdet', 'mmrotate'),
}
OTHERS = ('rank replaced', 'disk full')
KINDS = (*KILLS, OTHERS[0], *DAMAGE, OTHERS[1], *IMAGES, *NAN)


@dataclass(frozen=True)
class Fault:
    """A fault of the campaign.

    Attributes:
        kind: one of :data:`KINDS`.
        recipe: a key of :data:`RECIPES`.
        number: place among the faults of its kind; the random moments are functions of it.
        how: which of the ways that its kind has; '' if it has one.
    """

    kind: str
    recipe: str
    number: int
    how: str = ''
    rng: random.Random = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'rng', random.Random(self.key))

    @property
    def key(self) -> str:
        """Name of the fault among the results."""
        return f'{self.kind}, {self.number}, {self.recipe}{self.how and ", "}{self.how}'


def plan(kills: int, only: Collection[str]) -> list[Fault]:
    """Return the faults of a campaign.

    Args:
        kills: number of faults of the kinds :data:`KILLS`.
        only: kinds and recipes to leave all others out; empty for all.
    """
    recipes = list(RECIPES)
    faults = [
        Fault(KILLS[number % 3], recipes[number // 3 % len(recipes)], number)
        for number in range(kills)
    ]
    faults += [Fault(kind, recipe, 0) for kind in OTHERS for recipe in recipes]
    for kind, ways in DAMAGE.items():
        for number, how in enumerate(ways):
            # Only pretraining keeps an index of its labels.
            recipe = recipes[0] if kind == 'index damaged' else recipes[(number + 1) % 6]
            faults.append(Fault(kind, recipe, number, how))
    faults += [Fault(kind, recipe, 0) for kind in NAN for recipe in recipes]
    faults += [Fault(kind, recipe, 0) for kind, some in IMAGES.items() for recipe in some]
    kinds = set(only) & set(KINDS) or set(KINDS)
    chosen = set(only) & set(recipes) or set(recipes)
    # A campaign that is ended early has tried some of each kind.
    random.Random(0).shuffle(faults)
    return [fault for fault in faults if fault.kind in kinds and fault.recipe in chosen]
