"""Measurements of a training step: time by phase, memory, launches, the largest batch."""

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from counting.launches import LaunchCounter
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mtp.engine.captured_steps import VERIFIED_USES, CapturedSteps
from mtp.engine.cuda_graphs import Recorder
from mtp.fallback import fallen
from training.jobs import PHASES, Job

Batch = dict[str, Any]
LAUNCHES = {
    'cudaLaunchKernel',
    'cudaLaunchKernelExC',
    'cuLaunchKernel',
    'cuLaunchKernelEx',
    'cudaGraphLaunch',
    'cudaMemcpyAsync',
    'cudaMemsetAsync',
}


def first_step(job: Job, batch: Batch, device: torch.device) -> float:
    """Return seconds from building the model to the end of the first step, with compilation."""
    begun = time.perf_counter()
    job.step(batch)
    wait(device)
    return job.build_seconds + time.perf_counter() - begun


def timed_steps(
    jobs: list[Job], batches: list[list[dict]], repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Measure milliseconds of a step and its phases for each job, and its peak memory.

    Every repeat takes the next of the ``batches``, given as samples. The jobs take turns, so that
    other load on the machine disturbs them alike. The result is the step of median length with its
    own phases, which add up to it.
    """
    found = {job.name: [] for job in jobs}
    prepared = {job.name: [job.collate(samples) for samples in batches] for job in jobs}
    peaks = dict.fromkeys(found)
    for number in range(repeats):
        for job in jobs:
            if device.type == 'cuda':
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
            batch = prepared[job.name][number % len(batches)]
            found[job.name].append(_timed_step(job, batch, device))
            if device.type == 'cuda':
                own = torch.cuda.max_memory_allocated(device) - before + job.static_bytes
                peaks[job.name] = max(peaks[job.name] or 0, own / 1e6)
    rows = {}
    for name, steps in found.items():
        middle = statistics.median_low(sum(step) for step in steps)
        phases = next(step for step in steps if sum(step) == middle)
        rows[name] = dict(zip(PHASES, phases)) | {
            'step': sum(phases),
            'fastest': min(map(sum, steps)),
            'peak_mb': peaks[name],
        }
    return rows


def captured_steps(
    job: Job, batches: list[list[dict]], repeats: int, recorder: Recorder, device: torch.device
) -> dict[str, Any]:
    """Measure milliseconds of a captured step: on the device, and of the host until it is launched.

    Args:
        job: job with mtp's wrapper of the optimiser; its model takes captured steps afterwards.
        batches: batches to take in turn, given as samples.
        repeats: number of timed steps.
        recorder: maker of the replays.
        device: device of the model.

    Raises:
        RuntimeError: no step was replayed.
    """
    torch.set_float32_matmul_precision(job.matmul_precision)
    lines: list[str] = []
    step = CapturedSteps(job.model, job.optimizer, recorder, False, 0, lines.append)
    prepared = [job.collate(samples) for samples in batches]
    for batch in prepared * VERIFIED_USES:
        step(batch, job.optimizer)
    if not step.replays:
        raise RuntimeError(f'0 replays: {"; ".join(lines) or fallen()}')
    found: dict[str, list[float]] = {'step': [], 'host': []}
    for number in range(repeats):
        wait(device)
        begin = time.perf_counter()
        step(prepared[number % len(prepared)], job.optimizer)
        found['host'].append((time.perf_counter() - begin) * 1e3)
        wait(device)
        found['step'].append((time.perf_counter() - begin) * 1e3)
    times = {name: statistics.median(values) for name, values in found.items()}
    return times | {'replays': step.replays, 'log': lines}


def _timed_step(job: Job, batch: Batch, device: torch.device) -> list[float]:
    """Return milliseconds of each phase."""
    if device.type == 'cuda':
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(PHASES) + 1)]
        rest = iter(marks)
        wait(device)
        next(rest).record()
        job.step(batch, lambda: next(rest).record())
        wait(device)
        return [start.elapsed_time(end) for start, end in zip(marks, marks[1:])]
    marks = [time.perf_counter()]
    job.step(batch, lambda: marks.append(time.perf_counter()))
    return [(end - start) * 1e3 for start, end in zip(marks, marks[1:])]


def wait(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def saved_bytes(job: Job, batch: Batch) -> int:
    """Return bytes that a forward pass keeps for the backward pass, without parameters."""
    with (kept := Kept(job.model)):
        job.forward(batch)
    return kept.nbytes


class Kept:
    """Context that records what is kept for the backward pass, without a model's parameters.

    Args:
        model: model whose parameters are left out.
        copies: copies of its weights, which are left out too.

    Attributes:
        nbytes: bytes of everything kept, each storage once.
        unseen: bytes, of these, of tensors that were not shown to it.
    """

    def __init__(self, model: nn.Module, copies: Sequence[Tensor] = ()) -> None:
        self.unseen = 0
        # storages are held: a freed one could give its address to another
        self._storages = {_address(t): None for t in (*model.parameters(), *copies)}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)

    def keep(self, tensor: Tensor) -> Tensor:
        """Record a tensor, and return it."""
        self._storages.setdefault(_address(tensor), tensor.untyped_storage())
        return tensor

    @property
    def nbytes(self) -> int:
        seen = sum(storage.nbytes() for storage in self._storages.values() if storage is not None)
        return seen + self.unseen

    def __enter__(self) -> 'Kept':
        self._hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._hooks.__exit__(*error)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def launches(job: Job, batch: Batch, device: torch.device) -> dict[str, int]:
    """Count the kernel launches of a step, and how often it makes the host wait.

    On a GPU launches and copies are those of the driver, and waits are those that torch warns of.
    On a CPU both are what the same operators would do on a GPU, counted by
    :class:`counting.launches.LaunchCounter`; ``constants`` are tensors made from numbers of the
    host, for which a GPU waits too.
    """
    if device.type == 'cpu':
        with LaunchCounter() as counter, torch.compiler.set_stance('force_eager'):
            job.step(batch)
        return {
            'launches': counter.launches.total(),
            'waits': counter.syncs.total(),
            'constants': counter.constants.total(),
        }
    job.step(batch)  # compiles for the batch's shape
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        job.step(batch)
        wait(device)
    number = sum(event.name in LAUNCHES for event in profiler.events())
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            job.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return {
        'launches': number,
        'waits': sum('synchroniz' in str(w.message) for w in caught),
        'constants': 0,
    }


def largest_batch(
    job: Job, make: Callable[[int], Batch], gigabytes: float, device: torch.device
) -> int:
    """Return the most images per data set with which two steps fit into ``gigabytes`` on a GPU."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total), device)
    try:
        fits, fails = 1, 2
        while _fits(job, make(fails)):
            fits, fails = fails, 2 * fails
        while fails - fits > 1:
            middle = (fits + fails) // 2
            fits, fails = (middle, fails) if _fits(job, make(middle)) else (fits, middle)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    return fits


def _fits(job: Job, batch: Batch) -> bool:
    try:
        job.step(batch)
        job.step(batch)
        return True
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        job.optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def recomputing(backbone: nn.Module, on: bool) -> Iterator[None]:
    """Turn activation checkpointing of the backbone's blocks on or off."""
    before, backbone.with_cp = backbone.with_cp, on
    try:
        yield
    finally:
        backbone.with_cp = before
