"""Shared by all preparations: multiprocessing, progress, restart, report of unusable files."""

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
    """Result of a preparation.

    Attributes:
        made: kind of output (``'train images'``, ...) -> count, earlier runs included.
        left_out: kind of input that the recipe leaves out (``'objects without extent'``, ...) ->
            count.
        bad: inputs that could not be used, with the reason, one line each.
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
    """Call a function on each item, on all cores; report the items for which it raises.

    Args:
        function: picklable function of an item, which raises if the item cannot be used. To be
            restartable, it keeps existing files (see :func:`mtp.files.whole`).
        items: arguments of the function.
        what: name of the progress bar, and of the count in ``report.made``.
        report: gets the count of good items and a line for each bad one.
        name: function that returns the name of an item for that line; None for the item itself, or
            the first element of a tuple.
        cost: cost of an item, as in :func:`~mtp.data.samrs.to_coco.parallel`.

    Returns:
        list: results of the good items, in order.
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
    except Exception as error:  # whatever a bad file raises must not end the run; it is reported
        return None, str(error) if isinstance(error, OSError | ValueError) else repr(error)


def folder(root: Path, *names: str) -> Path:
    """Return the first of some folders that exists.

    Raises:
        FileNotFoundError: none exists; the message lists them.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(
        f'{root} has no folder {" or ".join(names)}: unpack the archives '
        'there; for the layout, see: `mtp data prepare --list`'
    )
