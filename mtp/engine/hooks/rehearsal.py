"""What first runs in week three, tried before step 1: validation, a checkpoint, the export."""

import logging
import random
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
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

from mtp.engine.hooks.export_encoder import ExportEncoderHook
from mtp.engine.parallel import ShardedModel
from mtp.engine.shards import load_shards
from mtp.evaluation import Submission
from mtp.models.weights.safe_loading import load_safely
from mtp.registry import HOOKS


class RehearsalError(RuntimeError):
    """Something that a run needs later fails already before its first step."""


@HOOKS.register_module()
class RehearsalHook(Hook):
    """Validates, saves and exports once before training, so that a fault shows at once.

    All processes validate two batches with the metric, and look for the figure that chooses the
    best checkpoint; they write a checkpoint, read it back, compare it, remove it, and do the same
    with the encoder's file. What a run does not do later is left out. Hooks do not see the
    validation, and its metrics write no files; those that do nothing else are left out. A run then
    goes on as if nothing had happened: weights, random generators, loaders, metrics and the log
    are as before.

    Args:
        min_iters: fewest iterations of a run that rehearses: in a shorter one all of this comes
            soon enough. None: no run does.

    Raises:
        RehearsalError: in ``before_train``; it names what failed.
    """

    # Before CompileHook (NORMAL): nothing is compiled for it.
    priority = 'HIGH'

    def __init__(self, min_iters: int | None = 1000) -> None:
        self.min_iters = min_iters

    def before_train(self, runner: Runner) -> None:
        """Rehearse."""
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


def _try(what: str, function: Callable, *args, together: bool = False) -> Any:
    """Call a function on all processes; end all of them with one error when one of them fails.

    Args:
        what: what is tried, for the message.
        function: called with ``args``.
        together: whether the processes wait for each other in it. Then the one that fails ends at
            once, and whatever started the others ends them.

    Returns:
        what the function returns.

    Raises:
        RehearsalError: on the main process, or on one that fails in what it does together with
            others; the others end with status 1.
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
    """Leave the random generators, the logger's level and the peak of memory as they are found."""
    device = next(runner.model.parameters()).device
    states = random.getstate(), np.random.get_state()
    level = runner.logger.level
    runner.logger.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng([device] if device.type == 'cuda' else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        runner.logger.setLevel(level)
        if device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats()  # the log tells that of training


def _validate(runner: Runner) -> None:
    mode = runner.model.training
    runner.model.eval()  # shards are gathered here, by all processes
    evaluator, dataset = runner.val_loop.evaluator, runner.val_loop.dataloader.dataset
    with _without_traces(evaluator):
        images = sum(all_gather_object(_try('validation', _predict, runner)))
        # of few images the sampler gives some to two processes
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
    """Let metrics write no files, and give them back their attributes.

    A metric may keep what it has seen first: mmdet's ``CocoMetric`` its truth.
    """
    changed = [evaluator, *evaluator.metrics]
    kept = [dict(vars(part)) for part in changed]
    evaluator.metrics = [metric for metric in evaluator.metrics if not _only_writes(metric)]
    for metric in evaluator.metrics:
        metric.results = []
        for name in ('outfile_prefix', 'output_dir'):  # of mmdet and mmrotate, of mmseg
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
    """Hand at most two batches to the metric; return the number of images."""
    # Not from the loader: its workers would be in the middle of an epoch then.
    loader = runner.val_loop.dataloader
    batches = _choose(loader)
    with patch.object(runner, 'call_hook', lambda *_, **__: None):
        for number, indices in enumerate(batches):
            batch = loader.collate_fn([loader.dataset[index] for index in indices])
            runner.val_loop.run_iter(number, batch)
    return sum(map(len, batches))


def _choose(loader: DataLoader) -> list[list]:
    """Return the indices of at most two batches: different images, some of each data set."""
    whole = list(loader.batch_sampler)
    ends = getattr(loader.dataset, 'cumulative_sizes', ())
    parts: dict[int, list] = {}
    for index in chain.from_iterable(whole):
        parts.setdefault(bisect_right(ends, index), []).append(index)
    size = max(len(parts), max(map(len, whole), default=0))
    chosen = []
    for part in parts.values():
        count = min(len(part), 2 * size // len(parts))
        # at equal distances: scenes of one class lie in a row
        chosen += [part[(2 * i + 1) * len(part) // (2 * count)] for i in range(count)]
    return [batch for batch in (chosen[:size], chosen[size:]) if batch]


def _check_best(runner: Runner, figures: dict[str, float]) -> None:
    """Raise where a checkpoint is to be the best by a figure that the validation does not give."""
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
    _try('clearing the work directory', _remove, path)  # of a run that was killed
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
    checkpoint = load_shards(path, model) if path.is_dir() else load_safely(path)
    # A moving average takes the place of the weights, which move to a place of their own.
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
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
