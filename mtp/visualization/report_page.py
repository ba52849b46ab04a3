"""A report as one HTML page, with everything in it: no script, no style or picture beside it."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import mtp
from mtp.evaluation.report import TaskFigures
from mtp.files import write_text
from mtp.painting import distinct_colours
from mtp.visualization.report_pictures import LEGEND, Case
from mtp.visualization.svg import Line, line_chart

TEMPLATES = Path(__file__).with_name('templates')
INK = '#333333'


@dataclass(frozen=True)
class Table:
    """Table of figures: heads of its columns, the first that of the rows' names, and its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Chart:
    """Chart with its legend, name -> colour, and a line of text below."""

    title: str
    svg: Markup
    legend: Mapping[str, str]
    text: str = ''


@dataclass(frozen=True)
class Text:
    """Long text, folded up."""

    title: str
    content: str


@dataclass
class Section:
    """Section of a page.

    Attributes:
        title: its head.
        tables, charts: what the names say.
        confusion: figures whose confusion matrix is shown.
        cases: head -> images.
        notes: remarks.
        texts: long texts.
    """

    title: str
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    confusion: TaskFigures | None = None
    cases: dict[str, list[Case]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    texts: Sequence[Text] = ()


def write_page(path: Path, title: str, about: Iterable[str], sections: Sequence[Section]) -> None:
    """Write a page atomically.

    Args:
        path: path of the html file.
        title: title of the page.
        about: lines below it.
        sections: its sections. All their texts are escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= dict(figure=figure, picture=_picture, css=css_colour, shade=_shade)
    page = environment.get_template('report.html.j2').render(
        title=title,
        about=list(about),
        sections=sections,
        legend={name: css_colour(colour) for name, colour in LEGEND.items()},
        version=mtp.__version__,
    )
    write_text(path, page)


def figure(value: Any) -> str:
    """Return a figure as the page shows it: four decimals, a dash where it is undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '–'
    return f'{value:.4f}' if isinstance(value, float | np.floating) else str(value)


def of_metrics(metrics: Mapping[str, float], classes: Sequence[str], prefix: str) -> list[Table]:
    """Return tables of the figures of classes: one for each part of the names before the class.

    Args:
        metrics: figures by their names in ``metrics.json``: ``<prefix>/<class>/<figure>``.
        classes: names of the classes.
        prefix: what the names begin with; '' for those of any.
    """
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in metrics.items():
        split = split_key(key, classes, prefix)
        if split:
            before, name, kind = split
            groups.setdefault(before, {}).setdefault(kind, {})[name] = value
    return [
        Table(
            f'Figures of each class{before and f": {before}"}',
            ['class', *kinds],
            [
                [name, *(of_kind.get(name) for of_kind in kinds.values())]
                for name in classes
                if any(name in of_kind for of_kind in kinds.values())
            ],
        )
        for before, kinds in groups.items()
    ]


def split_key(key: str, classes: Sequence[str], prefix: str) -> tuple[str, str, str] | None:
    """Split a name in ``metrics.json`` into what is before the class, the class, and the figure.

    Returns:
        None if it is no figure of one of the classes, or does not begin with ``prefix``.
    """
    head, _, kind = key.rpartition('/')
    for name in sorted(classes, key=len, reverse=True):  # a name may end with another
        before = '' if head == name else head.removesuffix(f'/{name}')
        if before != head and (not prefix or before == prefix):
            return before, name, kind
    return None


def of_task(title: str, figures: TaskFigures, tables: list[Table]) -> Section:
    """Return the section of a task of a data set.

    Args:
        title: its head.
        figures: figures of the task.
        tables: tables of the metrics of its classes.
    """
    tally = figures.tally()
    columns = ['class', *tally[0][1]]
    rows = [[name, *row.values()] for name, row in tally]
    found = Table(f'What was missed and what was invented, in {figures.unit}', columns, rows)
    return Section(
        title,
        [*tables, found],
        _charts_of(figures),
        figures,
        notes=figures.notes,
    )


def _charts_of(figures: TaskFigures) -> list[Chart]:
    charts = []
    if figures.curves:
        colours = dict(zip(figures.names, map(css_colour, distinct_colours(len(figures.names)))))
        lines = {
            curve.name: Line(curve.recall, curve.precision, colours[curve.name])
            for curve in figures.curves
        }
        svg = line_chart(lines, 'recall', 'precision', (0, 1), (0, 1))
        legend = {name: line.colour for name, line in lines.items()}
        text = (
            'A point for each score, in steps of 0.001: of all predictions of at least that score.'
        )
        if figures.unit != 'objects':
            text += ' Each class is judged against all others.'
        charts.append(Chart('Precision and recall', svg, legend, text))
    if figures.calibration:
        found = figures.calibration
        some = found.counts > 0
        lines = {
            'perfect': Line([0, 1], [0, 1], '#999999', dashes=True),
            'this model': Line(found.scores[some], found.shares[some], '#0072b2', marks=True),
        }
        svg = line_chart(lines, 'mean score', 'share of right predictions', (0, 1), (0, 1))
        text = (
            f'Expected calibration error: {found.error:.4f}, of {found.counts.sum()} predictions.'
        )
        legend = {name: line.colour for name, line in lines.items()}
        charts.append(Chart('Calibration', svg, legend, text))
    return charts


def _picture(jpeg: bytes) -> str:
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'


def css_colour(colour: Sequence[int]) -> str:
    """Return a colour (RGB, 0..255) as ``#rrggbb``."""
    return '#{:02x}{:02x}{:02x}'.format(*colour)


def _shade(count: int, total: int) -> float:
    """Return the strength of a cell's colour: its share of the row, 0..1."""
    return round(float(count / total), 3) if total else 0.0
