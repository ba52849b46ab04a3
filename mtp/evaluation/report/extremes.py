"""The best and the worst of many images, of which only a few are kept."""

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Extremes:
    """Keeps the best and the worst items of a stream.

    An item without any fault is never among the worst, and one without anything right never among
    the best.

    Args:
        number: how many of each are kept.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        # (rank, serial number, item): the smallest, which the next one replaces, comes first
        self._best: list[tuple] = []
        self._worst: list[tuple] = []
        self._serial = itertools.count(0, -1)  # of equal items the first stay

    def offer(self, quality: float, weight: float, make: Callable[[], Any]) -> None:
        """Keep an item if it is among the best or worst so far.

        Args:
            quality: 0, nothing is right, to 1, nothing is wrong.
            weight: how much the item shows, by which equal ones are ranked.
            make: function that makes what is kept, called only then.
        """
        made = None
        for heap, rank, fits in (
            (self._best, (quality, weight), quality > 0),
            (self._worst, (-quality, weight), quality < 1),
        ):
            full = len(heap) >= self.number
            if not fits or (full and rank <= heap[0][0]):
                continue
            made = made if made is not None else make()
            entry = (rank, next(self._serial), made)
            if full:
                heapq.heapreplace(heap, entry)
            else:
                heapq.heappush(heap, entry)

    @property
    def best(self) -> list[Any]:
        """The best items, best first."""
        return [item for *_, item in sorted(self._best, key=_rank, reverse=True)]

    @property
    def worst(self) -> list[Any]:
        """The worst items, worst first."""
        return [item for *_, item in sorted(self._worst, key=_rank, reverse=True)]


def _rank(entry: tuple) -> tuple:
    return entry[:2]
