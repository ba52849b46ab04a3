"""Tables of an evaluation's figures, which look alike for all tasks."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence

from mmengine.logging import MMLogger
from rich import box
from rich.console import Console
from rich.table import Table

# Score from which predicted objects are counted in tables and drawn in pictures, 0..1.
SHOWN_SCORE = 0.3

Cell = float | int | str | None


def log_figures(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    summary: Mapping[str, float] | None = None,
) -> None:
    """Log a table of figures, and below it those of the whole evaluation.

    Args:
        title: line above the table.
        columns: heads of the columns; the first is that of the rows' names.
        rows: name and cells of each row: numbers of two decimals, counts, or text. None and nan,
            undefined figures, are shown as ``-``.
        summary: figures over all classes, by their names in ``metrics.json``.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, head in enumerate(columns):
        table.add_column(head, justify='right' if number else 'left', no_wrap=True)
    for row in rows:
        table.add_row(*map(_text, row))
    text = io.StringIO()
    Console(file=text, width=1000, color_system=None, markup=False, emoji=False).print(table)
    lines = [title, *(line.rstrip() for line in text.getvalue().splitlines())]
    if summary:
        lines += ['  '.join(f'{name}: {_text(value)}' for name, value in summary.items())]
    # The mark tells the console that mmengine's line of the same figures is not needed.
    logger = MMLogger.get_current_instance()
    logger.info('\n'.join(line for line in lines if line), extra=dict(figures=True))


def _text(value: Cell) -> str:
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return '-'
    return f'{value:,}' if isinstance(value, int) else f'{value:.2f}'
