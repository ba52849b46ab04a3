"""Updates that were skipped because numbers went wrong: counted, written down, and an end to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseAveragedModel
from mmengine.runner import Runner
from torch import nn

from mtp.engine.checkpoints import candidates
from mtp.engine.ema import FastEMA
from mtp.engine.hooks.deferred_log import DeferredLogHook, add_to_log, is_log_step
from mtp.engine.loops import batches_of
from mtp.engine.mixed_precision import MixedPrecisionOptimWrapper
from mtp.files import write_json
from mtp.registry import HOOKS

FOLDER = 'bad_updates'
COUNT, BACKOFFS = 'train/bad_updates', 'train/loss_scale_reductions'
# Of a run that goes wrong again and again the first tell as much as all.
MOST_FILES = 100


class BadUpdatesError(RuntimeError):
    """So many updates in a row had numbers that were not finite that the run has ended."""


@dataclass
class _Update:
    """What an update was made from on this process.

    Attributes:
        iteration: number of the update, counted from 1 as in the log.
        files: paths of the images by batch.
        seeds: seeds of the samples by batch, where they have any.
    """

    iteration: int
    files: list[list[str]]
    seeds: list[list[int]]


@HOOKS.register_module()
class BadUpdatesHook(Hook):
    """Reports the updates that the optimiser's wrapper has skipped, and ends a run of nothing else.

    ``MixedPrecisionOptimWrapper`` skips an update on the device. The host learns of it with what
    ``DeferredLogHook`` fetches for a log line: it counts ``bad_updates``, warns, and writes
    ``<work dir>/bad_updates/iter_<N>.json``, from which ``tools/train.py --replay`` trains to that
    update once more. In a skipped update moving averages of weights stay as they are.

    Args:
        max_in_a_row: number of skipped updates, one after the other, at which a run ends.

    Raises:
        BadUpdatesError: at the log line after so many, on all processes.
    """

    # After DeferredLogHook, before EMAHook and LoggerHook.
    priority = 'ABOVE_NORMAL'

    def __init__(self, max_in_a_row: int = 20) -> None:
        self.max_in_a_row = max_in_a_row
        self._active = False
        self._updates: list[_Update] = []  # since the last log line, as are their outcomes
        self._outcomes: list[list[float]] = []
        self._in_a_row: list[_Update] = []

    def before_train(self, runner: Runner) -> None:
        """Ask for the outcomes of updates, and let averages know of them."""
        deferred = [hook for hook in runner.hooks if isinstance(hook, DeferredLogHook)]
        self._active = bool(deferred) and isinstance(
            runner.optim_wrapper, MixedPrecisionOptimWrapper
        )
        if not self._active:
            runner.logger.info(
                'Updates are not checked for NaN and infinite numbers: that needs '
                'optim_wrapper.type=mtp.engine.MixedPrecisionOptimWrapper and '
                'default_hooks.runtime_info.type=mtp.engine.DeferredLogHook'
            )
            return
        deferred[0].take_outcomes = self._outcomes.extend
        for average in _averages(runner):
            if not isinstance(average, FastEMA):
                update = partial(_update_unless_skipped, runner, average.update_parameters)
                average.update_parameters = update

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Keep what the update was made from; at a log line, report."""
        if not self._active or runner.optim_wrapper.outcome is None:
            return
        for average in _averages(runner):
            if isinstance(average, FastEMA):
                average.skipped = runner.optim_wrapper.skipped
        samples = [sample_facts(batch) for batch in batches_of(data_batch)]
        self._updates.append(
            _Update(
                runner.iter + 1,
                [_paths(of_batch) for of_batch in samples],
                [_seeds(of_batch) for of_batch in samples],
            )
        )
        if is_log_step(runner, batch_idx):
            self._report(runner)

    def after_train(self, runner: Runner) -> None:
        """Report on the updates since the last log line."""
        if self._active:
            self._report(runner)

    def _report(self, runner: Runner) -> None:
        """Tell of what was skipped since the last report; all processes call it together."""
        told = list(zip(self._updates, self._outcomes, strict=True))
        self._updates.clear()
        self._outcomes.clear()
        add_to_log(runner, BACKOFFS, sum(reduced > 0 for _, (_, _, reduced) in told))
        bad, longest = [], self._in_a_row
        for update, (skipped, _, reduced) in told:
            if reduced:  # the way in which float16 training finds its scale
                continue
            self._in_a_row = [*self._in_a_row, update] if skipped else []
            longest = max(longest, self._in_a_row, key=len)
            bad += [update] if skipped else []
        if not bad:
            return
        add_to_log(runner, COUNT, len(bad))
        here = {update.iteration for update, (_, loss, _) in told if loss}
        paths = _write(runner, bad, here)
        runner.logger.warning(_warning(bad, paths))
        if len(longest) >= self.max_in_a_row:
            raise BadUpdatesError(_last_words(longest, Path(runner.work_dir) / FOLDER))


def _averages(runner: Runner) -> list[BaseAveragedModel]:
    return [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]


def _update_unless_skipped(
    runner: Runner, update: Callable[[nn.Module], None], model: nn.Module
) -> None:
    """Update one of mmengine's own averages, which wait for the device in any case."""
    if not runner.optim_wrapper.skipped.item():
        update(model)


def sample_facts(batch: Any) -> list[Mapping[str, Any]]:
    """Return what the samples of a batch tell of themselves, as mmengine's libraries collate it."""
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    return [sample.metainfo for sample in samples or () if hasattr(sample, 'metainfo')]


def _paths(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the image files of some samples; a pair of images has several."""
    values = [
        value
        for sample in samples
        for key, value in sample.items()
        if key.startswith('img_path') and value is not None
    ]
    return [
        str(path) for value in values for path in (value if isinstance(value, list) else [value])
    ]


def _seeds(samples: Sequence[Mapping[str, Any]]) -> list[int]:
    return [int(sample['sample_seed']) for sample in samples if 'sample_seed' in sample]


def _write(runner: Runner, bad: Sequence[_Update], here: set[int]) -> list[Path]:
    """Write a file for each bad update, with what all processes know; return the paths."""
    known = [(update.iteration in here, update.files, update.seeds) for update in bad]
    of_ranks = all_gather_object(known)
    folder = Path(runner.work_dir) / FOLDER
    written = sum(1 for _ in folder.glob('iter_*.json'))
    chosen = bad[: max(0, MOST_FILES - written)]
    paths = [folder / f'iter_{update.iteration}.json' for update in chosen]
    if is_main_process():
        for number, (update, path) in enumerate(zip(chosen, paths)):
            write_json(path, _content(runner, update, [known[number] for known in of_ranks]))
    return paths


def _content(runner: Runner, update: _Update, of_ranks: Sequence[tuple]) -> dict[str, Any]:
    epoch_length = len(runner.train_dataloader)
    if (writer := getattr(runner, 'writer', None)) is not None:
        writer.wait()  # the newest one may still be written
    checkpoint = next(
        iter(checkpoints_before(runner.work_dir, update.iteration, epoch_length)), None
    )
    return dict(
        config=Path(runner.cfg.filename or f'{runner.timestamp}.py').name,
        iteration=update.iteration,
        checkpoint=checkpoint and checkpoint.name,
        epoch_length=epoch_length,
        seed=runner.seed,
        processes=get_world_size(),
        batches=len(update.files),
        bad_loss_on_ranks=[rank for rank, (bad, _, _) in enumerate(of_ranks) if bad],
        ranks=[dict(rank=r, files=f, seeds=s) for r, (_, f, s) in enumerate(of_ranks)],
    )


def checkpoints_before(work_dir: str | Path, iteration: int, epoch_length: int) -> list[Path]:
    """Return the checkpoints of a run from which training comes to an update, the newest first.

    They are told by their names; whether they are damaged is not looked at.

    Args:
        work_dir: folder of the run.
        iteration: number of the update, counted from 1.
        epoch_length: number of updates in an epoch.
    """
    lengths = {'iter': 1, 'epoch': epoch_length}
    found = {}
    for path in candidates(work_dir):
        kind, number = path.stem.split('_')
        found[path] = int(number) * lengths[kind]
    before = [path for path, updates in found.items() if updates < iteration]
    return sorted(before, key=lambda path: found[path], reverse=True)


def _warning(bad: Sequence[_Update], paths: Sequence[Path]) -> str:
    first = bad[0]
    text = (
        f'{len(bad)} update{"s" if len(bad) > 1 else ""} skipped, since a loss or the norm of the '
        'gradients was NaN or infinite: '
        f'iteration {", ".join(str(update.iteration) for update in bad)}; the first was '
        f'of {_named_files(first)}'
    )
    if not paths:
        return text
    return (
        f'{text}. For the first module whose numbers are not finite: mtp train --replay {paths[0]}'
    )


def _last_words(bad: Sequence[_Update], folder: Path) -> str:
    return (
        f'{len(bad)} updates in a row, iterations {bad[0].iteration} to {bad[-1].iteration}, were '
        'skipped, since a loss or the norm of the gradients was NaN or infinite in each; the '
        f'first was of {_named_files(bad[0])}. None of them changed the weights. The '
        f'files of each are in {folder}; for the first module whose numbers are not finite: '
        f'mtp train --replay {folder / f"iter_{bad[0].iteration}.json"}'
    )


def _named_files(update: _Update, most: int = 4) -> str:
    files = [path for batch in update.files for path in batch]
    if not files:
        return 'samples without a path'
    more = f' and {len(files) - most} more' if len(files) > most else ''
    return f'{", ".join(files[:most])}{more}'
