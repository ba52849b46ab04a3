"""A page of a training run: its curves, metrics, time, memory, data and config."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtp.engine import provenance
from mtp.files import read_figures
from mtp.painting import distinct_colours
from mtp.visualization.curves import COLOURS, Series, read_records, scalars_of, task_losses
from mtp.visualization.report_page import (
    Chart,
    Section,
    Table,
    Text,
    css_colour,
    split_key,
    write_page,
)
from mtp.visualization.svg import Line, line_chart

# Scalars of training that are not losses: name -> title of their chart.
OF_SPEED = {
    'images_per_s': 'images per second',
    'time': 'seconds per iteration',
    'data_share': 'share of time waiting for data',
    'utilisation': 'utilisation of the GPU',
    'memory': 'memory of the GPU, MB',
    'lr': 'learning rate',
    'grad_norm': 'norm of the gradients',
}


def report_run(work_dir: Path, out: Path) -> Path:
    """Write a page of a training run.

    Args:
        work_dir: work directory of ``mtp train``; logs of resumed runs are joined.
        out: path of the page.

    Returns:
        Path: ``out``.

    Raises:
        FileNotFoundError: the directory has no log.
        ValueError: a log, or ``metrics.json``, is unreadable.
    """
    records = read_records(work_dir)
    scalars = scalars_of(records)
    validations = scalars_of(record for record in records if 'iter' not in record)
    validations.pop('step', None)
    starts = provenance.read_starts(work_dir / provenance.NAME)
    metrics = work_dir / 'metrics.json'
    configs = sorted(work_dir.glob('*.py'))
    sections = [
        Section('Summary', [Table('', ['figure', 'value'], _summary(scalars, len(starts)))]),
        Section('Losses', charts=_loss_charts(scalars)),
        _validation(validations, starts, int(max(scalars.get('epoch', {0: 0}).values()))),
    ]
    if metrics.is_file():
        rows = [[key, value] for key, value in read_figures(metrics).items()]
        sections.append(Section('Test (metrics.json)', [Table('', ['figure', 'value'], rows)]))
    speed = [
        _chart(title, {name: scalars[name]}) for name, title in OF_SPEED.items() if name in scalars
    ]
    sections += [
        Section('Time and memory', charts=speed, notes=_missing(scalars)),
        _data(starts),
        Section('Config', texts=[Text(path.name, path.read_text()) for path in configs]),
    ]
    about = [f'{len(scalars["loss"])} lines of the log, to iteration {max(scalars["loss"])}.']
    write_page(out, f'Training in {work_dir.resolve().name}', about, sections)
    return out


def _summary(scalars: Mapping[str, Series], starts: int) -> list[list[Any]]:
    steps = sorted(scalars['loss'])
    rows: list[list[Any]] = [
        ['iterations', steps[-1]],
        ['last loss', scalars['loss'][steps[-1]]],
        ['starts of the run', starts or None],
    ]
    if seconds := scalars.get('time'):
        rows.append(['hours of training steps', training_seconds(seconds) / 3600])
    for name in ('images_per_s', 'data_share', 'utilisation'):
        if values := [value for value in scalars.get(name, {}).values() if math.isfinite(value)]:
            rows.append([f'{OF_SPEED[name]}, mean', sum(values) / len(values)])
    if memory := scalars.get('memory'):
        rows.append(['memory of the GPU, MB, highest', max(memory.values())])
    return rows


def training_seconds(seconds: Series) -> float:
    """Return the time of all iterations, given their mean time at each line of the log."""
    total, before = 0.0, 0
    for step in sorted(seconds):
        total += seconds[step] * (step - before)
        before = step
    return total


def _missing(scalars: Mapping[str, Series]) -> list[str]:
    return [] if 'memory' in scalars else ['The log has no memory: the run was on a CPU.']


def _loss_charts(scalars: Mapping[str, Series]) -> list[Chart]:
    charts = [_chart('total loss', {'loss': scalars['loss']})]
    by_task = task_losses(dict(scalars))
    charts += [_chart(f'{task} loss', lines) for task, lines in by_task.items()]
    terms = {
        key: series
        for key, series in scalars.items()
        if 'loss' in key and key != 'loss' and key.count('.') != 2
    }
    if len(terms) > 1:
        charts.append(_chart('terms of the loss', terms))
    return charts


def _validation(figures: Mapping[str, Series], starts: list[dict], epochs: int) -> Section:
    """Return the figures of validations; curves of those that are not of a single class.

    Args:
        figures: what the validations logged.
        starts: content of ``provenance.json``.
        epochs: number of epochs so far; 0 for a run that does not count them.
    """
    if not figures:
        return Section('Validation', notes=['The log has no validation.'])
    named = (starts[-1].get('classes') or {}) if starts else {}
    classes = list(dict.fromkeys(name for of_one in named.values() for name in of_one))
    overall = {k: series for k, series in figures.items() if not split_key(k, classes, '')}
    groups: dict[str, dict[str, Series]] = {}
    for key, series in overall.items():
        dataset, _, rest = key.partition('/')
        # one chart for a figure of several data sets
        title = rest if rest and dataset in named else key
        groups.setdefault(title, {})[dataset if title == rest else key] = series
    rows = [
        [key, series[max(series)], max(series), *_highest(series)]
        for key, series in figures.items()
    ]
    unit = 'epoch' if max(map(max, figures.values())) <= epochs else 'iteration'
    table = Table('', ['figure', 'last', f'of {unit}', 'highest', f'of {unit}'], rows)
    charts = [
        _chart(title, lines, unit)
        for title, lines in groups.items()
        if any(len(series) > 1 for series in lines.values())
    ]
    return Section('Validation', [table], charts)


def _highest(series: Series) -> tuple[float | None, int | None]:
    defined = {step: value for step, value in series.items() if math.isfinite(value)}
    if not defined:
        return None, None
    step = max(defined, key=lambda step: defined[step])
    return defined[step], step


def _chart(title: str, series: Mapping[str, Series], unit: str = 'iteration') -> Chart:
    colours: tuple[str, ...] = COLOURS
    if len(series) > len(COLOURS):
        colours = tuple(map(css_colour, distinct_colours(len(series))))
    lines = {}
    for (name, values), colour in zip(series.items(), colours):
        steps = sorted(values)
        lines[name] = Line(steps, [values[step] for step in steps], colour, marks=len(steps) < 10)
    legend = {name: line.colour for name, line in lines.items()} if len(lines) > 1 else {}
    return Chart(title, line_chart(lines, unit, title), legend)


def _data(starts: list[dict]) -> Section:
    """Return what ``provenance.json`` tells."""
    if not starts:
        return Section('Data', notes=[f'There is no {provenance.NAME}.'])
    last = starts[-1]
    classes = last.get('classes') or {}
    data = [
        [part.get('name') or 'data set', part.get('images'), part.get('bytes')]
        for part in last.get('data') or ()
    ]
    rows = [
        [
            start.get('time'),
            start.get('iteration'),
            (start.get('start') or {}).get('path'),
            start.get('processes'),
            start.get('commit'),
            ', '.join((start.get('hardware') or {}).get('gpus') or ()) or 'CPU',
        ]
        for start in starts
    ]
    heads = ['start', 'iteration', 'from', 'processes', 'commit', 'device']
    return Section(
        'Data and starts',
        [Table('', ['data', 'images', 'bytes'], data), Table('Starts of the run', heads, rows)],
        notes=[f'{name or "Classes"}: {", ".join(names)}' for name, names in classes.items()],
        texts=[Text(f'{provenance.NAME}: versions, hardware, command', json.dumps(last, indent=1))],
    )
