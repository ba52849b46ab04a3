"""`tools/train.py` with what the campaign adds: a record of each step, and one fault.

The fault is a JSON object in the variable :data:`FAULT`; mtp itself knows nothing of it.
"""

import errno
import functools
import hashlib
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmengine.runner.runner
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from mmengine.utils.dl_utils import collect_env
from torch import Tensor, nn

from campaign.plan import WRITING
from campaign.small import TOOLS
from mtp.cli import launch
from mtp.engine import checkpoint_writer
from mtp.engine.hooks.bad_updates import _paths, _seeds, sample_facts
from mtp.engine.loops import batches_of
from mtp.engine.parallel import unwrap

FAULT = 'CAMPAIGN_FAULT'
RECORDS = 'CAMPAIGN_RECORDS'  # folder of the records
# Numbers that go wrong, and the update that is left out in the run that they are compared with.
NAN = ('gradient', 'activation', 'pixel')
LEFT_OUT = 'left out'


class Record(Hook):
    """Appends what each step reads, and what it logs, to ``steps.<rank>.jsonl``."""

    priority = 'HIGHEST'

    def __init__(self, folder: str, rank: int) -> None:
        self._path = Path(folder) / f'steps.{rank}.jsonl'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record file, seed and pixels of each sample."""
        batches = batches_of(data_batch)
        self._append(runner.iter, 'read', [_read(batch) for batch in batches])

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Record losses and learning rates, to the last digit."""
        values = {key: float(value) for key, value in (outputs or {}).items()}
        rates = [group['lr'] for group in runner.optim_wrapper.param_groups]
        self._append(runner.iter, 'logged', [values, rates])

    def _append(self, *entry: Any) -> None:
        with self._path.open('a') as file:
            # The line before may have been cut by a kill.
            file.write(f'\n{json.dumps(entry)}\n')


def _read(batch: Mapping[str, Any]) -> list[list]:
    samples = sample_facts(batch)
    pixels = [
        hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()[:16]
        for image in batch['inputs']
    ]
    files = ['/'.join(Path(path).parts[-3:]) for path in _paths(samples)]
    return [files, _seeds(samples), pixels]


class BadNumber(Hook):
    """Makes a number of one update NaN, or leaves the update out.

    Args:
        kind: one of :data:`NAN`, or :data:`LEFT_OUT`.
        step: ``runner.iter`` of the update.
        rank: process on which the number goes wrong; an update is left out on all.
        batch: index of the batch within the update.
    """

    priority = 'LOWEST'  # after EMAHook

    def __init__(self, kind: str, step: int, rank: int = 0, batch: int = 0) -> None:
        self.kind, self.step, self.rank, self.batch = kind, step, rank, batch
        self._undo: list[Callable[[], object]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the fault up for the first batch of an update."""
        if runner.iter != self.step:
            return
        if self.kind == LEFT_OUT:
            self._leave_out(runner)
        elif self.kind == 'pixel' and runner.rank == self.rank:
            batches = batches_of(data_batch)
            batch = batches[self.batch]
            images = [image.float().contiguous() for image in batch['inputs']]
            images[0].view(-1)[7] = float('nan')
            stacked = isinstance(batch['inputs'], Tensor)
            batch['inputs'] = torch.stack(images) if stacked else images
        self.before_train_batch(runner, 0)

    def before_train_batch(self, runner: Runner, batch_idx: int) -> None:
        """Set the fault up for a batch of an update."""
        if (runner.iter, runner.rank, batch_idx) != (self.step, self.rank, self.batch):
            return
        if self.kind == 'activation':
            layer = next(
                module
                for module in unwrap(runner.model).modules()
                if isinstance(module, nn.Linear | nn.Conv2d)
            )
            handle = layer.register_forward_hook(lambda module, inputs, output: _spoilt(output))
            self._undo.append(handle.remove)
        elif self.kind == 'gradient':
            weight = next(p for p in unwrap(runner.model).parameters() if p.requires_grad)
            self._undo.append(weight.register_hook(_spoilt).remove)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Take the fault away."""
        while self._undo:
            self._undo.pop()()

    def _leave_out(self, runner: Runner) -> None:
        """Draw, count and schedule as ever, but compute nothing."""
        kept = runner.model.train_step
        runner.model.train_step = lambda data, optim_wrapper: {'loss': torch.zeros(())}
        self._undo.append(lambda: setattr(runner.model, 'train_step', kept))
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                average = hook.ema_model
                average.update_parameters = lambda model: None
                self._undo.append(lambda average=average: delattr(average, 'update_parameters'))


def _spoilt(values: Tensor) -> Tensor:
    """Return a copy of some values of which one is NaN."""
    spoilt = values.clone(memory_format=torch.contiguous_format)
    spoilt.view(-1)[3] = float('nan')
    return spoilt


class DiskFault:
    """Kills the process while it writes a checkpoint, or fills its disk.

    Args:
        kind: ``'kill in writing'`` or ``'disk full'``.
        checkpoint: which checkpoint of this process it is, from 0.
        moment: one of :data:`WRITING`.
        before: whether the process ends just before the moment, not just after it.
        part: how many calls write a part of the file before the fault, for ``'data'``.
    """

    def __init__(
        self, kind: str, checkpoint: int, moment: str, before: bool = True, part: int = 0
    ) -> None:
        self.kind, self.checkpoint, self.moment = kind, checkpoint, moment
        self.before, self.part = before, part
        self._seen = dict.fromkeys(WRITING, 0)
        self._parts = 0

    def install(self) -> None:
        """Wrap the functions that write."""
        hashed = checkpoint_writer._HashedFile
        write, replace = hashed.write, os.replace

        def counted_write(file: Any, data: bytes) -> int:
            file._file = _Failing(file._file, self) if self.kind == 'disk full' else file._file
            if self.kind != 'disk full' and self._due('data'):
                os.kill(os.getpid(), signal.SIGKILL)
            return write(file, data)

        def counted_replace(source: Any, target: Any) -> None:
            moment = _moment(Path(target).name)
            due = moment is not None and self._due(moment)
            if due and self.before:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if due:
                os.kill(os.getpid(), signal.SIGKILL)
            if moment == 'file':
                self._seen['data'] += 1

        hashed.write = counted_write
        os.replace = counted_replace

    def _due(self, moment: str) -> bool:
        """Return whether the fault happens at a call."""
        if moment != self.moment:
            return False
        if moment == 'data':
            self._parts += self._seen['data'] == self.checkpoint
            return self._parts > self.part
        self._seen[moment] += 1
        return self._seen[moment] == self.checkpoint + 1


def _moment(name: str) -> str | None:
    if name == 'last_checkpoint':
        return 'pointer'
    if name.startswith(('iter_', 'epoch_')):
        return 'checksum' if name.endswith('.sha256') else 'file'
    return None


class _Failing:
    """A file on a disk that fills."""

    def __init__(self, file: Any, fault: DiskFault) -> None:
        self._file, self._fault = getattr(file, '_file', file), fault

    def write(self, data: bytes) -> int:
        if self._fault._due('data'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@functools.cache
def _environment() -> dict[str, str]:
    """Return what mmengine logs of the machine."""
    return collect_env()


def train(arguments: Sequence[str]) -> None:
    """Run ``tools/train.py`` in this process, with the record and the fault."""
    fault = json.loads(os.environ.get(FAULT, '{}'))
    build = launch.build_runner

    def build_recorded(cfg: Any) -> Runner:
        runner = build(cfg)
        runner.register_hook(Record(os.environ[RECORDS], runner.rank))
        if fault.get('kind') in (*NAN, LEFT_OUT):
            runner.register_hook(BadNumber(**fault))
        return runner

    launch.build_runner = build_recorded
    mmengine.runner.runner.collect_env = _environment  # which takes a second
    if fault.get('kind') in ('kill in writing', 'disk full'):
        DiskFault(**fault).install()
    sys.argv = ['tools/train.py', *arguments]
    runpy.run_path(str(TOOLS / 'train.py'), run_name='__main__')
