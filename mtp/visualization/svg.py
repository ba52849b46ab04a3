"""Charts as inline SVG, which need no script and no file beside the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 12, 46  # margins around the plot
INK, GRID = '#333', '#e2e2e2'


@dataclass(frozen=True)
class Line:
    """Line of a chart.

    Attributes:
        x, y: values ``(N,)``; nan leaves a gap.
        colour: ``#rrggbb``.
        marks: whether each point has a mark, too.
        dashes: whether the line is dashed.
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    colour: str
    marks: bool = False
    dashes: bool = False


def line_chart(
    lines: Mapping[str, Line],
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Draw lines over common axes.

    Args:
        lines: name -> line.
        x_label, y_label: names of the axes.
        x_range, y_range: ends of the axes; None for those of the values, with 0 in y.
    """
    x_range = x_range or _range([line.x for line in lines.values()], with_zero=False)
    y_range = y_range or _range([line.y for line in lines.values()], with_zero=True)
    parts = [_axes(x_label, y_label, x_range, y_range)]
    for name, line in lines.items():
        x, y = (
            _place(line.x, x_range, LEFT, WIDTH - RIGHT),
            _place(line.y, y_range, HEIGHT - BOTTOM, TOP),
        )
        dashes = ' stroke-dasharray="5 4"' if line.dashes else ''
        parts.append(
            f'<path d="{_path(x, y)}" fill="none" stroke="{line.colour}" stroke-width="1.8"'
            f'{dashes}><title>{escape(name)}</title></path>'
        )
        if line.marks:
            parts += [
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{line.colour}"/>'
                for px, py in zip(x, y)
                if math.isfinite(py)
            ]
    label = escape(f'{y_label} over {x_label}')
    return Markup(  # all texts are escaped above
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + ''.join(parts)
        + '</svg>'
    )


def _axes(
    x_label: str, y_label: str, x_range: tuple[float, float], y_range: tuple[float, float]
) -> str:
    """Return grid, numbers and names of the axes."""
    parts = []
    for value in _ticks(*y_range):
        y = _place([value], y_range, HEIGHT - BOTTOM, TOP)[0]
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    for value in _ticks(*x_range):
        x = _place([value], x_range, LEFT, WIDTH - RIGHT)[0]
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}" '
            f'stroke="{INK}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{value:.6g}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return (
        ''.join(parts)
        + f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" '
        f'stroke="{INK}"/>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f'{escape(x_label)}</text>'
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f'{escape(y_label)}</text>'
    )


def _place(
    values: Sequence[float] | np.ndarray, ends: tuple[float, float], first: float, last: float
) -> np.ndarray:
    """Return coordinates in pixels; ``ends`` are at ``first`` and ``last``."""
    low, high = ends
    return first + (np.asarray(values, np.float64) - low) / (high - low) * (last - first)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Return a path, without points that fall on the same tenth of a pixel as the last one."""
    parts: list[str] = []
    last, move = None, True
    for px, py in zip(x.tolist(), y.tolist()):
        if not (math.isfinite(px) and math.isfinite(py)):
            move = True
            continue
        point = f'{px:.1f} {py:.1f}'
        if point != last or move:
            parts.append(f'{"M" if move else "L"}{point}')
        last, move = point, False
    return ''.join(parts)


def _range(values: Sequence[Sequence[float] | np.ndarray], with_zero: bool) -> tuple[float, float]:
    every = np.concatenate([np.asarray(part, np.float64) for part in values] or [np.zeros(0)])
    every = every[np.isfinite(every)]
    low, high = (every.min(), every.max()) if len(every) else (0.0, 1.0)
    if with_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    return float(low), float(high if high > low else low + 1)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers within a range."""
    step = 10 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
