"""What every preparation does alike: all cores, progress, restart, list of the bad."""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from mtp.data.samrs.to_coco import parallel

Item = TypeVar('Item')


@dataclass
class Report:
    """What a preparation did.

    Attributes:
        made: what was written (``'train images'``, ...) -> how many, with those of earlier runs.
        left_out: what the recipe does without (``'objects without extent'``, ...) -> how many.
        bad: what could not be used, with the reason, a line each.
    """

    made: dict[str, int] = field(default_factory=dict)
    left_out: Counter = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


def process(
    function: Callable[[Item], object],
    items: Sequence[Item],
    what: str,
    report: Report,
    name: Callable[[Item], object] | None = None,
    cost: int = 1,
) -> list:
    """Call a function on each item, on all cores; note in ``report`` the items that raise.

    Args:
        function: picklable; raises for an item that cannot be used. To be restartable it leaves
            files that are there (see :func:`mtp.files.whole`) as they are.
        items: its arguments.
        what: name of the progress bar, and of the count in ``report.made``.
        report: gets the count of good items and a line for each bad one.
        name: how an item is called in that line; None for the item, or the first of a tuple.
        cost: of an item, as in :func:`~mtp.data.samrs.to_coco.parallel`.

    Returns:
        list: the results of the good items, in order.
    """
    results = []
    attempts = parallel(partial(_attempt, function), items, what, cost)
    for (result, problem), item in zip(attempts, items, strict=True):
        if problem is None:
            results.append(result)
        else:
            called = str((name or _first)(item))
            report.bad.append(problem if problem.startswith(called) else f'{called}: {problem}')
    report.made[what] = report.made.get(what, 0) + len(results)
    return results


def _first(item: object) -> object:
    return item[0] if isinstance(item, tuple) else item


def _attempt(function: Callable, item: object) -> tuple[object, str | None]:
    try:
        return function(item), None
    except (OSError, ValueError, KeyError, SyntaxError, zlib.error) as error:
        return None, str(error) if isinstance(error, OSError | ValueError) else repr(error)


def folder(root: Path, *names: str) -> Path:
    """The first of some folders that is there.

    Raises:
        FileNotFoundError: none is; the message names what was looked for.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(
        f'{root} has no folder {" or ".join(names)}: unpack the archives '
        'there; the layout is told by: python tools/data/prepare.py --list'
    )
