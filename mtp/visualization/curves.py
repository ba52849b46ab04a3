"""Curves of the losses and metrics of training runs."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Series = dict[int, float]  # iteration -> value
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')  # Okabe and Ito
INK = '#333333'
OF_VALIDATION = ('time', 'data_time')  # logged of a validation too, under the same names


def plot_curves(work_dir: str | Path, out: str | Path) -> Path:
    """Draw losses (upper row) and, if logged, metrics in percent (lower row) of a run.

    The first panel shows all data sets together. Further panels show one task each, with a line per
    data set. The loss of a task is the sum of its terms.

    Args:
        work_dir: work directory of ``tools/train.py``; logs of resumed runs are joined.
        out: path of the picture, with a suffix that matplotlib supports.

    Returns:
        Path: ``out``.

    Raises:
        FileNotFoundError: the directory has no log.
        ValueError: a log is unreadable or has no losses, or ``out`` has an unknown suffix.
    """
    scalars = read_scalars(work_dir)
    losses, metrics = task_losses(scalars), task_metrics(scalars)
    datasets = list(dict.fromkeys(name for lines in losses.values() for name in lines))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(datasets)}
    rows, columns = 2 if metrics else 1, 1 + len(losses)
    figure = Figure(figsize=(3.4 * columns, 0.4 + 2.5 * rows), layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    _draw(panels[0, 0], 'total loss', {'all': scalars['loss']}, {'all': INK})
    for panel, (task, lines) in zip(panels[0, 1:], losses.items()):
        _draw(panel, f'{task} loss', lines, colours)
    if metrics:
        average = {'all': scalars.get('average', {})}
        _draw(panels[1, 0], 'average of the metrics, %', average, {'all': INK})
        for panel, task in zip(panels[1, 1:], losses):
            kinds = metrics.get(task, {})
            title = ', '.join(f'{kind}{word}' for kind, word in zip(kinds, ('', ' dotted')))
            for (_, lines), style in zip(kinds.items(), ('-', ':')):
                _draw(panel, f'{task}: {title}, %', lines, colours, style)
    for panel in panels.flat:
        panel.set_ylim(bottom=0)
    for panel in panels[-1]:
        panel.set_xlabel('iteration')
    return _save(figure, colours, out)


def read_scalars(work_dir: str | Path) -> dict[str, Series]:
    """Read all scalars logged in ``work_dir``; a run replaces older ones from its start.

    Raises:
        FileNotFoundError: the directory has no log.
        ValueError: a log is unreadable or has no losses.
    """
    return scalars_of(read_records(work_dir))


def read_records(work_dir: str | Path) -> list[dict]:
    """Read the lines of the logs in ``work_dir``, as :func:`read_scalars` does.

    Those of validations have no ``iter``; their ``step`` may be an epoch.
    """
    # in the order of their start times
    paths = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not paths:
        raise FileNotFoundError(
            f'no <time>/vis_data/scalars.json in {work_dir}: give the work '
            'directory of a training run that has logged at least once'
        )
    records: list[dict] = []
    for path in paths:
        of_run = [record for record in _read_lines(path) if 'step' in record]
        if of_run:
            start = min(record['step'] for record in of_run)
            records = [record for record in records if record['step'] < start] + of_run
    if not any('loss' in record for record in records):
        raise ValueError(
            f'{paths[-1]} holds no losses yet: is {work_dir} the work directory of a '
            'training run, and has it run for as long as its log interval?'
        )
    return records


def scalars_of(records: Iterable[dict]) -> dict[str, Series]:
    """Return the scalars of the lines of a log."""
    scalars: dict[str, Series] = {}
    for record in records:
        for key, value in record.items():
            # the times of a validation are not those of training
            if 'iter' not in record and key in OF_VALIDATION:
                continue
            # null: it was not finite
            scalars.setdefault(key, {})[record['step']] = math.nan if value is None else value
    return scalars


def _read_lines(path: Path) -> Iterable[dict]:
    text = path.read_text()
    # the log of a running or interrupted run may end within a line
    for number, line in enumerate(text[: text.rfind('\n') + 1].splitlines(), 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f'{path}, line {number} is no json: remove the line') from error


def task_losses(scalars: dict[str, Series]) -> dict[str, dict[str, Series]]:
    """Return task -> data set -> sum of loss terms, from the keys ``<data set>.<task>.<term>``."""
    losses: dict[str, dict[str, Series]] = {}
    for key, series in scalars.items():
        if key.count('.') != 2 or 'loss' not in key:
            continue
        dataset, task, _ = key.split('.')
        total = losses.setdefault(task, {}).setdefault(dataset, {})
        for step, value in series.items():
            total[step] = total.get(step, 0.0) + value
    return losses


def task_metrics(scalars: dict[str, Series]) -> dict[str, dict[str, dict[str, Series]]]:
    """Return task -> metric -> data set -> values, from ``<data set>/<task>/<metric>``."""
    metrics: dict[str, dict[str, dict[str, Series]]] = {}
    for key, series in scalars.items():
        if key.count('/') == 2:
            dataset, task, metric = key.split('/')
            metrics.setdefault(task, {}).setdefault(metric, {})[dataset] = series
    return metrics


def _draw(
    panel: Axes, title: str, lines: dict[str, Series], colours: dict[str, str], style: str = '-'
) -> None:
    for name, series in lines.items():
        steps = sorted(series)
        panel.plot(
            steps,
            [series[step] for step in steps],
            style,
            color=colours[name],
            linewidth=1.4,
            marker='o' if len(steps) < 10 else '',
            markersize=4,
            markerfacecolor=colours[name] if style == '-' else 'white',
        )
    panel.set_title(title, loc='left', color=INK, fontsize=10)
    panel.spines[['top', 'right']].set_visible(False)
    panel.grid(axis='y', color='#e6e6e6', linewidth=0.8)
    panel.set_axisbelow(True)


def _save(figure: Figure, colours: dict[str, str], out: str | Path) -> Path:
    """Add a legend of the colours, write the picture, and return its path."""
    figure.legend(
        [Line2D([], [], color=colour) for colour in colours.values()],
        list(colours),
        loc='outside upper right',
        ncols=len(colours),
        frameon=False,
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return out


def plot_starts(runs: dict[str, dict[str, Path]], metrics: dict[str, str], out: str | Path) -> Path:
    """Draw runs that differ only in their initial weights: training loss above, metric below.

    Args:
        runs: title -> name of the initial weights -> work directory of ``tools/train.py``.
        metrics: title -> key of the metric in the log. Its values are drawn as logged, in percent
            or not, over the epochs of their measurement.
        out: path of the picture, with a suffix that matplotlib supports.

    Returns:
        Path: ``out``.

    Raises:
        FileNotFoundError: a run has no log.
        ValueError: a log is unreadable or has no such metric.
    """
    figure = Figure(figsize=(3.4 * len(runs), 5.4), layout='constrained')
    panels = figure.subplots(2, len(runs), squeeze=False)
    starts = list(dict.fromkeys(start for of_title in runs.values() for start in of_title))
    colours = dict(zip(starts, COLOURS))
    for (title, of_title), above, below in zip(runs.items(), *panels):
        scalars = {start: read_scalars(work_dir) for start, work_dir in of_title.items()}
        key = metrics[title]
        for start, found in scalars.items():
            if key not in found:
                raise ValueError(
                    f'{of_title[start]} has logged no {key!r}; it has {", ".join(found)}'
                )
        _draw(above, f'{title}: loss', {s: found['loss'] for s, found in scalars.items()}, colours)
        _draw(below, key, {s: found[key] for s, found in scalars.items()}, colours)
        above.set_xlabel('iteration')
        below.set_xlabel('epoch')
        for panel in (above, below):
            panel.set_ylim(bottom=0)
    return _save(figure, colours, out)
