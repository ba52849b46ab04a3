"""Rehearsal before step 1 of what otherwise first runs late: validation, checkpoint, export."""

import logging
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.evaluator import BaseMetric, DumpResults, Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from mtp.engine import checkpoints
from mtp.engine.hooks.export_encoder import ExportEncoderHook
from mtp.engine.parallel import ShardedModel
from mtp.engine.shards import load_shards
from mtp.evaluation import Submission
from mtp.models.weights.safe_loading import load_safely
from mtp.registry import HOOKS


class RehearsalError(RuntimeError):
    """Failure, before the first step, of something that a run needs later."""


@HOOKS.register_module()
class RehearsalHook(Hook):
    """Hook that validates, saves and exports once before training, so that faults show early.

    All processes validate two batches with the metric, and check that it gives the figure that
    selects the best checkpoint. They write a checkpoint, read it back, compare it and remove it,
    and do the same with the encoder's file. Steps that the run does not do later are skipped. Other
    hooks do not see the validation. Metrics write no files, and those that only write files are
    skipped. Afterwards weights, random states, loaders, metrics and the log are as before.

    Args:
        min_iters: minimum number of remaining iterations for a rehearsal; a shorter run reaches all
            of this soon. None: never rehearse.

    Raises:
        RehearsalError: in ``before_train``; the message names the step that failed.
    """

    # Before CompileHook (NORMAL), so that nothing is compiled for the rehearsal.
    priority = 'HIGH'

    def __init__(self, min_iters: int | None = 1000) -> None:
        self.min_iters = min_iters

    def before_train(self, runner: Runner) -> None:
        """Rehearse, unless the run is short."""
        if self.min_iters is None or runner.max_iters - runner.iter < self.min_iters:
            return
        start = time.perf_counter()
        tried = []
        with _unchanged(runner):
            if runner.val_loop is not None:
                _validate(runner)
                tried.append('validation')
            _save(runner)
            tried.append('a checkpoint')
            for hook in runner.hooks:
                if isinstance(hook, ExportEncoderHook):
                    _export(runner, hook)
                    tried.append('the export of the encoder')
        runner.logger.info(
            f'Tried before the first step, in {time.perf_counter() - start:.1f} s: '
            f'{", ".join(tried)}'
        )


def _try(what: str, function: Callable, *args: Any, together: bool = False) -> Any:
    """Call a function on all processes; if it fails on one of them, end all with one error.

    Args:
        what: name of the step, for the message.
        function: function to call with ``args``.
        together: True if the processes wait for each other in the function. Then a process that
            fails ends immediately, and the launcher ends the others.

    Returns:
        Any: the function's result.

    Raises:
        RehearsalError: on the main process, or with ``together`` on the process that fails; the
            others end with status 1.
    """
    result = failure = None
    try:
        result = function(*args)
    except Exception as error:
        failure = error
    texts = [failure and f'{type(failure).__name__}: {failure}']
    if not (failure and together):
        texts = all_gather_object(texts[0])
    failed = [rank for rank, text in enumerate(texts) if text]
    if not failed:
        return result
    if not (failure and together or is_main_process()):
        raise SystemExit(1)
    on = f' on {len(failed)} of {len(texts)} processes, first on {failed[0]}' * (len(texts) > 1)
    raise RehearsalError(
        f'{what}, which this run does only later, was tried before the first step and failed{on}: '
        f'{texts[failed[0]]}. To train all the same: --cfg-options '
        'default_hooks.rehearsal.min_iters=None'
    ) from failure


@contextmanager
def _unchanged(runner: Runner) -> Iterator[None]:
    """Restore the random states and the logger's level afterwards; reset the peak memory."""
    device = next(runner.model.parameters()).device
    states = random.getstate(), np.random.get_state()
    level = runner.logger.level
    runner.logger.setLevel(logging.ERROR)  # two batches lack classes, of which metrics warn
    try:
        with torch.random.fork_rng([device] if device.type == 'cuda' else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        runner.logger.setLevel(level)
        if device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats()  # the log shows that of training


def _validate(runner: Runner) -> None:
    mode = runner.model.training
    runner.model.eval()  # all processes gather the shards here
    evaluator, dataset = runner.val_loop.evaluator, runner.val_loop.dataloader.dataset
    with _without_traces(evaluator):
        images = sum(all_gather_object(_try('validation', _predict, runner)))
        # with few images, the sampler gives some of them to two processes
        figures = _try(
            'the metric of the validation',
            evaluator.evaluate,
            min(images, len(dataset)),
            together=True,
        )
    _try('choosing the best checkpoint', _check_best, runner, figures)
    runner.model.train(mode)


@contextmanager
def _without_traces(evaluator: Evaluator) -> Iterator[None]:
    """Keep metrics from writing files, and restore their attributes afterwards.

    A metric may store what it sees first, as mmdet's ``CocoMetric`` does with its ground truth.
    """
    changed = [evaluator, *evaluator.metrics]
    kept = [dict(vars(part)) for part in changed]
    evaluator.metrics = [metric for metric in evaluator.metrics if not _only_writes(metric)]
    for metric in evaluator.metrics:
        metric.results = []
        # the first: mmdet, mmrotate; the second: mmseg
        for name in ('outfile_prefix', 'output_dir'):
            if hasattr(metric, name):
                setattr(metric, name, None)
    try:
        yield
    finally:
        for part, attributes in zip(changed, kept):
            vars(part).clear()
            vars(part).update(attributes)


def _only_writes(metric: BaseMetric) -> bool:
    return isinstance(metric, Submission | DumpResults) or getattr(metric, 'format_only', False)


def _predict(runner: Runner) -> int:
    """Predict at most two batches for the metric; return the number of images."""
    # Not by iterating the loader, whose workers would then be in the middle of an epoch.
    loader = runner.val_loop.dataloader
    batches = _choose(loader)
    with patch.object(runner, 'call_hook', lambda *_, **__: None):
        for number, indices in enumerate(batches):
            batch = loader.collate_fn([loader.dataset[index] for index in indices])
            runner.val_loop.run_iter(number, batch)
    return sum(map(len, batches))


def _choose(loader: DataLoader) -> list[list]:
    """Return the indices of at most two batches of distinct images, some from each data set."""
    whole = list(loader.batch_sampler)  # type: ignore[arg-type]  # mmengine's loaders have one
    ends = getattr(loader.dataset, 'cumulative_sizes', ())
    parts: dict[int, list] = {}
    for index in chain.from_iterable(whole):
        parts.setdefault(bisect_right(ends, index), []).append(index)
    size = max(len(parts), max(map(len, whole), default=0))
    chosen = []
    for part in parts.values():
        count = min(len(part), 2 * size // len(parts))
        # evenly spaced, since the scenes of a class are consecutive
        chosen += [part[(2 * i + 1) * len(part) // (2 * count)] for i in range(count)]
    return [batch for batch in (chosen[:size], chosen[size:]) if batch]


def _check_best(runner: Runner, figures: dict[str, float]) -> None:
    """Refuse a ``save_best`` figure that the validation does not give."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best and figures:
            unknown = set(hook.key_indicators) - {'auto', *figures}
            if unknown:
                raise ValueError(
                    f'save_best={", ".join(sorted(unknown))} is no figure of the '
                    f'validation, which gives {", ".join(figures)}'
                )


def _save(runner: Runner) -> None:
    path = Path(runner.work_dir) / 'rehearsal.pth'
    _try('clearing the work directory', _remove, path)  # left by a killed run
    shards = isinstance(runner.model, ShardedModel)
    meta = dict(epoch=runner.epoch, iter=runner.iter)
    _try(
        'saving a checkpoint',
        lambda: runner.save_checkpoint(str(path.parent), path.name, meta=meta, by_epoch=False),
        together=shards,
    )
    _try('reading a checkpoint back', _read, runner, path, together=shards)
    _try('removing a checkpoint', _remove, path)


def _read(runner: Runner, path: Path) -> None:
    """Read a checkpoint and compare it with the model."""
    model = runner.bare_model
    expected = {name: _local(value).clone() for name, value in model.state_dict().items()}
    loaded = load_shards(path, model) if path.is_dir() else load_safely(path)
    checkpoint = cast(dict[str, Any], loaded)
    # With a moving average, mmengine saves it as state_dict, and the weights as ema_state_dict.
    found = checkpoint.get('ema_state_dict') or checkpoint['state_dict']
    found = {name.removeprefix('module.'): value for name, value in found.items()}
    different = [
        name
        for name, value in expected.items()
        if name not in found or not torch.equal(_local(found[name]).to(value.device), value)
    ]
    if different:
        raise ValueError(
            f'{len(different)} entries differ from what was written: {", ".join(different[:3])}'
        )


def _export(runner: Runner, hook: ExportEncoderHook) -> None:
    path = Path(runner.work_dir) / 'rehearsal_encoder.pth'
    _try(
        'exporting the encoder',
        hook.export,
        runner,
        path,
        together=isinstance(runner.model, ShardedModel),
    )
    _try('reading the encoder back', load_safely, path)
    _try('removing the encoder', _remove, path)


def _remove(path: Path) -> None:
    if is_main_process():
        checkpoints.remove(path)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
