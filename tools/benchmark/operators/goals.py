"""Goals of the operators' times, and whether measured rows meet them.

Only what a replay has measured is judged: times that hold Python's say little of a kernel. Of A and
C, whose constants from the host may keep them from being captured, the time of the call will do.
"""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

# operator -> mode -> goals: names of what is compared, and the limit
GOALS: dict[str, dict[str, dict[str, float]]] = {
    'rotated_window_attention': {
        'fwd': {'host_ms': 0.15},
        'fwd+bwd': {'A': 10, 'C': 4, 'host_ms': 0.4},
    },
    'relative_position_attention': {'fwd+bwd': {'C': 5}},
    'dcnv3': {'fwd+bwd': {'backward_floor': 4}},
    'roi_align_rotated': {'fwd': {'floor': 5}},
    'sigmoid_focal_loss': {'fwd+bwd': {'C': 4}},
}


def judge(rows: list[Row]) -> None:
    """Add ``goals`` to the rows of what runs on a GPU in training: one line for each goal.

    Args:
        rows: all rows of an operator at a size; A and C are their ``plain`` ones.
    """
    for row in rows:
        goals = GOALS.get(row['operator'], {}).get(row['mode'], {})
        trained = 'kernel' if any(other['form'] == 'kernel' for other in rows) else 'torch'
        if row['form'] == trained and row['dtype'] == 'bfloat16' and goals:
            row['goals'] = [_line(name, limit, row, rows) for name, limit in goals.items()]


def _line(name: str, limit: float, row: Row, rows: list[Row]) -> str:
    sign, measure, at_least = MEASURES[name]
    value = None if row.get('device_ms') is None else measure(row, rows)
    title = sign.format(f'{limit:g}')
    if value is None:
        return f'{title}: not run'
    met = value >= limit if at_least else value <= limit
    return f'{title}: {value:.3g}, {"met" if met else "missed"}'


def _times_plain(dtype: str) -> Callable[[Row, list[Row]], float | None]:
    def times(row: Row, rows: list[Row]) -> float | None:
        other = _find(rows, 'plain', dtype, row['mode'])
        if other is None or other.get('ms') is None:
            return None
        return (other['device_ms'] or other['ms']) / row['device_ms']

    return times


def _backward_floor(row: Row, rows: list[Row]) -> float | None:
    """Return the time of the backward pass alone, in multiples of its own floor."""
    forward = _find(rows, row['form'], row['dtype'], 'fwd')
    if forward is None or forward.get('device_ms') is None:
        return None
    floor = row['floor_ms'] - forward['floor_ms']
    return (row['device_ms'] - forward['device_ms']) / floor


def _find(rows: list[Row], form: str, dtype: str, mode: str) -> Row | None:
    wanted = form, dtype, mode
    return next((r for r in rows if (r['form'], r['dtype'], r['mode']) == wanted), None)


MEASURES: dict[str, tuple[str, Callable[[Row, list[Row]], float | None], bool]] = {
    'A': ('at least {} x A', _times_plain('float32'), True),
    'C': ('at least {} x C', _times_plain('bfloat16'), True),
    'floor': (
        'at most {} x the floor',
        lambda row, rows: row['device_ms'] / row['floor_ms'],
        False,
    ),
    'backward_floor': ('backward at most {} x its floor', _backward_floor, False),
    'host_ms': ('host at most {} ms', lambda row, rows: row['host_ms'], False),
}
