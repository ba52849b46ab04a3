"""A run that hangs ends with a message that says where."""

import json
import os
import socket
import threading
import time
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed import Store

from mtp import signals
from mtp.engine.loader_workers import describe_workers
from mtp.engine.store import connect
from mtp.registry import HOOKS

LOADING = 'loading the data of iteration {}'


@HOOKS.register_module()
class TimeLimitHook(Hook):
    """Ends a run in which nothing happens any more, and names the process or worker that hangs.

    A thread watches what the main thread does. It tells the other processes through the store of
    the process group, so that the message of one that waits names the one that it waits for. The
    limit of the process group itself is ``env_cfg.dist_cfg.timeout``, seconds.

    Args:
        step: minutes for a training step, and for loading its data; three times the longest one so
            far where that is longer, as on a CPU.
        long: minutes for what takes longer: the first step, the first batch of an epoch, an
            iteration of a validation, copying a checkpoint, and the end of training.
    """

    # The next batch is waited for when all other hooks are through.
    priority = 'LOWEST'

    def __init__(self, step: float = 5, long: float = 30) -> None:
        self.step = step * 60
        self.long = long * 60
        self._watch: _Watch | None = None

    def before_train(self, runner: Runner) -> None:
        """Begin to watch."""
        self._first, self._longest = True, 0.0
        self._watch = _Watch(
            connect(f'time limits/{runner.experiment_name}'), min(self.step, self.long)
        )

    def before_train_epoch(self, runner: Runner) -> None:
        """Allow more time for the first batch."""
        self._enter(LOADING.format(runner.iter + 1), self.long)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Begin a step."""
        self._enter(f'computing iteration {runner.iter + 1}', self._limit())

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Begin to wait for the next batch."""
        self._first = False
        if self._watch is not None:
            self._longest = max(self._longest, self._watch.lasted())
        self._enter(LOADING.format(runner.iter + 2), self._limit())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Allow more time for a checkpoint's copy."""
        self._enter('copying a checkpoint', self.long)

    def before_val(self, runner: Runner) -> None:
        """Begin to wait for the first batch."""
        self._enter(f'validating: {LOADING.format(1)}', self.long)

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Begin an iteration of the validation."""
        self._enter(f'validating batch {batch_idx + 1}', self.long)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: list | None = None,
    ) -> None:
        """Begin to wait for the next batch, or for the metrics."""
        self._enter(f'validating: {LOADING.format(batch_idx + 2)}, or the metrics', self.long)

    def after_val(self, runner: Runner) -> None:
        """Go back to training."""
        self._enter(LOADING.format(runner.iter + 1), self.long)

    def after_train(self, runner: Runner) -> None:
        """Allow more time for what follows the last step."""
        self._enter('ending the training', self.long)

    def close(self) -> None:
        """Stop watching; nothing where nothing is watched."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _limit(self) -> float:
        return self.long if self._first else max(self.step, 3 * self._longest)

    def _enter(self, phase: str, limit: float) -> None:
        if self._watch is not None:
            self._watch.enter(phase, limit)


class _Watch:
    """The thread.

    Args:
        store: of the process group, with a prefix of its own.
        shortest: shortest limit, seconds.
    """

    def __init__(self, store: Store, shortest: float) -> None:
        self._store = store
        self._pause = min(5.0, shortest / 20)
        self._phase = ('starting', time.monotonic(), float('inf'), 0)
        self._ended = threading.Event()
        threading.Thread(target=self._run, name='time limits', daemon=True).start()

    def enter(self, phase: str, limit: float) -> None:
        """Note what the main thread begins.

        Args:
            phase: what it does, to follow "is".
            limit: seconds that it may take.
        """
        self._phase = (phase, time.monotonic(), limit, self._phase[3] + 1)

    def lasted(self) -> float:
        """Return for how long the main thread has done what it does, seconds."""
        return time.monotonic() - self._phase[1]

    def close(self) -> None:
        """End the thread."""
        self._ended.set()

    def _run(self) -> None:
        beat = 0
        while not self._ended.wait(self._pause):
            beat += 1
            phase, since, limit, number = self._phase
            try:
                if get_world_size() > 1:
                    facts = [beat, number, phase, socket.gethostname(), os.getpid()]
                    workers = describe_workers() if 'loading' in phase else ''
                    self._store.set(f'beat/{get_rank()}', json.dumps([*facts, workers]))
                late = time.monotonic() - since > limit
                if late and self._phase[3] == number:
                    self._end(phase, limit)
            except RuntimeError:  # the store is gone, and the main thread finds out by itself
                return

    def _end(self, phase: str, limit: float) -> None:
        message = (
            f'error: process {get_rank()} on {socket.gethostname()} has been {phase} for '
            f'{limit / 60:g} minutes'
        )
        own = describe_workers() if 'loading' in phase else ''
        if own:
            message += f'. It waits for {own}'
        elif get_world_size() > 1 and (others := self._those_behind()):
            message += f'. It waits for {others}'
        signals.current().leave(
            f'{message}. The limits are default_hooks.time_limits.step and .long, in minutes; go '
            'on with --resume auto',
            code=1,
        )

    def _those_behind(self) -> str:
        """Return the processes that give no sign of life, or have come less far than others."""
        before = self._beats()
        time.sleep(3 * self._pause)
        after = self._beats()
        dead = [rank for rank in after if rank in before and after[rank][0] == before[rank][0]]
        least = min(facts[1] for facts in after.values())
        behind = [rank for rank in after if after[rank][1] == least and rank != get_rank()]
        texts = []
        for rank in [rank for rank in dead if rank != get_rank()] or behind:
            _, _, phase, host, pid, workers = after[rank]
            sign = ', which gives no sign of life' if rank in dead else ''
            texts.append(
                f'process {rank} on {host} (pid {pid}){sign}, last {phase}'
                + f', for {workers}' * bool(workers)
            )
        return '; '.join(texts[:4])

    def _beats(self) -> dict[int, list[Any]]:
        keys = {rank: f'beat/{rank}' for rank in range(get_world_size())}
        return {
            rank: json.loads(self._store.get(key))
            for rank, key in keys.items()
            if self._store.check([key])
        }
