"""Training to an update that went wrong once more: what ``tools/train.py --replay FILE`` does."""

import argparse
import atexit
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtp.engine.checkpoints import verify
from mtp.engine.first_bad import FirstBad, describe
from mtp.engine.hooks.bad_updates import checkpoints_before
from mtp.engine.parallel import unwrap
from mtp.files import write_json
from mtp.registry import HOOKS


class ReplayEndedError(Exception):
    """The update has been trained again; the message says what was found."""


class BadUpdate:
    """An update that went wrong, as ``<work dir>/bad_updates/iter_<N>.json`` tells of it.

    Args:
        path: this file.

    Raises:
        FileNotFoundError: no such file, or no config in its work directory.
        ValueError: it is no such file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f'no file at {path}: give one of <work dir>/bad_updates')
        try:
            told = json.loads(path.read_text())
            self.iteration, self.processes = int(told['iteration']), int(told['processes'])
            self.epoch_length, config = int(told['epoch_length']), Path(told['config']).name
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path} does not tell of an update that went wrong ({error!r}): give a file '
                'iter_<N>.json of <work dir>/bad_updates'
            ) from error
        self.work_dir = path.resolve().parent.parent
        self.config = self.work_dir / config
        self.report = path.with_name(f'replay_{self.iteration}.json')
        if not self.config.is_file():
            raise FileNotFoundError(f'{path} was written by a run of {self.config}: no such file')

    def checkpoint(self) -> Path | None:
        """Return the newest undamaged checkpoint before the update; None: from the start."""
        for path in checkpoints_before(self.work_dir, self.iteration, self.epoch_length):
            with suppress(OSError, ValueError):
                return verify(path).path
        return None


def begin(args: argparse.Namespace) -> BadUpdate:
    """Make the arguments of ``tools/train.py --replay`` those of a run that comes to the update.

    It has a temporary work directory, and no fall-backs, as with ``MTP_STRICT=1``.

    Raises:
        FileNotFoundError, ValueError: as of :class:`BadUpdate`.
    """
    update = BadUpdate(args.replay)
    os.environ['MTP_STRICT'] = '1'
    folder = tempfile.TemporaryDirectory(prefix='mtp_replay_')
    atexit.register(folder.cleanup)
    checkpoint = update.checkpoint()
    args.config, args.resume = update.config, checkpoint and str(checkpoint)
    args.work_dir = Path(folder.name) / 'run'  # compiled code is cached beside it
    return update


def without_traces(cfg: Config, update: BadUpdate) -> None:
    """Change a config so that training ends after an update, with all that is found there.

    Raises:
        ValueError: the images of a step are not those of the run with this number of processes.
    """
    if 'total_batch_size' not in cfg and update.processes != get_world_size():
        raise ValueError(
            f'the run had {update.processes} processes, and its config gives the images of each: '
            'start as many for --replay'
        )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.pop('rehearsal', None)
    cfg.custom_hooks = [
        *cfg.get('custom_hooks', []),
        dict(type=ReplayHook, iteration=update.iteration, report=str(update.report)),
    ]


@HOOKS.register_module()
class ReplayHook(Hook):
    """Ends training after an update, uncompiled, with the first module that goes wrong in it.

    Args:
        iteration: number of the update, counted from 1.
        report: file to write.

    Raises:
        ReplayEndedError: after the update, on all processes.
    """

    priority = 'HIGHEST'

    def __init__(self, iteration: int, report: str) -> None:
        self.iteration = iteration
        self.report = Path(report)
        self._watch: FirstBad | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Watch the update."""
        if runner.iter + 1 == self.iteration:
            torch.compiler.set_stance('force_eager')
            self._watch = FirstBad(unwrap(runner.model))

    def before_train_batch(self, runner: Runner, batch_idx: int) -> None:
        """Note which batch comes next."""
        if self._watch is not None:
            self._watch.batch = batch_idx

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Tell what was found, and end."""
        if self._watch is None:
            return
        self._watch.close()
        torch.compiler.set_stance('default')
        bad = [key for key, value in (outputs or {}).items() if not torch.isfinite(value).all()]
        line = describe(self._watch, bad)
        mine = dict(forward=self._watch.forward, backward=self._watch.backward, losses=bad)
        of_ranks = all_gather_object(dict(mine, found=line))
        if is_main_process():
            write_json(self.report, dict(iteration=self.iteration, ranks=of_ranks))
        lines = [
            f'on process {rank}, {found["found"]}' if len(of_ranks) > 1 else found['found']
            for rank, found in enumerate(of_ranks)
        ]
        raise ReplayEndedError(f'update {self.iteration}: {"; ".join(lines)} ({self.report})')
