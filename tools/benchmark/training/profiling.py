"""Where the time of a training step goes: by operator, and by part of the model."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from training.jobs import Job

RANGE = 'part: '
BACKWARD = 'autograd::engine::evaluate_function: '


def profile_step(
    job: Job, batch: dict[str, Any], device: torch.device, top: int = 15
) -> dict[str, Any]:
    """Profile a step of our model.

    Returns:
        dict: ``parts``: milliseconds of each part, forward and backward (host time on a CPU, kernel
        time on a GPU); ``operators``: the ``top`` operators by their own time, each with ``name``,
        ``calls`` and ``ms``; ``trace``: the profiler, to export.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    with _ranges(job), profile(activities=activities) as profiler:
        job.step(batch)
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
    attribute = 'device' if device.type == 'cuda' else 'cpu'
    own = sorted(
        profiler.key_averages(),
        reverse=True,
        key=lambda row: getattr(row, f'self_{attribute}_time_total'),
    )
    rows = [
        {
            'name': row.key,
            'calls': row.count,
            'ms': getattr(row, f'self_{attribute}_time_total') / 1e3,
        }
        for row in own
        if not row.key.startswith(RANGE)
    ]
    return {
        'parts': _parts(profiler.events(), f'{attribute}_time_total'),
        'operators': rows[:top],
        'trace': profiler,
    }


@contextmanager
def _ranges(job: Job) -> Iterator[None]:
    """Name the parts of a step for the profiler."""
    places = [
        (job.model.data_preprocessor, 'forward', 'data'),
        (job.model.backbone, 'forward', 'backbone'),
        *((task, 'loss', name) for name, task in job.model.tasks.items()),
        (job.optimizer, 'step', 'optimizer'),
        (job.optimizer, 'zero_grad', 'optimizer'),
    ]
    with ExitStack() as stack:
        for owner, method, name in places:
            call = _recorded(getattr(owner, method), RANGE + name)
            stack.enter_context(patch.object(owner, method, call))
        yield


def _recorded(function: Callable, name: str) -> Callable:
    def call(*args, **kwargs):
        with record_function(name):
            return function(*args, **kwargs)

    return call


def _parts(events: list[FunctionEvent], time: str) -> dict[str, float]:
    """Return milliseconds of each part; a backward node belongs to the part of its forward."""
    parts, owners = Counter(), {}
    for event in events:
        if event.name.startswith(RANGE) and event.device_type == DeviceType.CPU:
            part = event.name.removeprefix(RANGE)
            parts[part] += getattr(event, time) / 1e3
            for inner in _below(event):
                if inner.sequence_nr >= 0:
                    owners[inner.sequence_nr] = part
    for event in events:
        if event.name.startswith(BACKWARD):
            parts[owners.get(event.sequence_nr, 'rest')] += getattr(event, time) / 1e3
    return dict(parts)


def _below(event: FunctionEvent) -> Iterator[FunctionEvent]:
    for child in event.cpu_children:
        yield child
        yield from _below(child)


def summary(found: dict[str, Any]) -> str:
    """Return the result of :func:`profile_step` as text."""
    total = sum(found['parts'].values())
    lines = ['part                 ms      %']
    lines += [
        f'{name:<14} {ms:8.1f}  {100 * ms / total:5.1f}'
        for name, ms in sorted(found['parts'].items(), key=lambda item: -item[1])
    ]
    lines += ['', 'operator, by its own time                                   calls        ms']
    lines += [
        f'{row["name"][:54]:<54} {row["calls"]:10} {row["ms"]:9.1f}' for row in found['operators']
    ]
    return '\n'.join(lines)
