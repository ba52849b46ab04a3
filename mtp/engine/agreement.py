"""Processes agree on the step after which they save, without waiting for a device."""

import json
import os
import threading
import time
from collections.abc import Callable

from torch.distributed import Store

from mtp.machine import machine_id, started

POLL = 0.25  # seconds
GONE = 10.0  # seconds without an answer after which a process that is to stop is taken for dead


class StepAgreement:
    """A thread that answers the other processes' threads while the main thread trains.

    Any process opens a round. In each process the main thread then waits at the end of its step;
    the thread tells at the end of which step it can stop; the latest of these is the one of all.
    Who waits at an earlier one goes on to it. Nobody waits for what another one computes.

    Args:
        store: of the process group, with a prefix of its own.
        rank: number of this process.
        world_size: number of processes.
        passed: number of finished steps.
        interval: seconds between checkpoints that the main process asks for; None for none.
        leave: ends the process, called from the thread: when all were validating when asked to
            stop, with True; when another one is gone, with False.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        passed: int,
        interval: float | None,
        leave: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._rank, self._world_size, self._interval = rank, world_size, interval
        self._leave = leave
        self._passed = passed
        self._validating = False
        self._round = 0
        self._kind: str | None = None  # of the round that is open
        self._target: int | None = None  # of the round that is open, once it is known
        self._stop = False
        self._saved = time.monotonic()
        self._store.set(f'process/{rank}', json.dumps([machine_id(), os.getpid()]))
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name='agreement', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask all processes to save and stop."""
        self._stop = True

    def note_saved(self) -> None:
        """Begin the interval again."""
        self._saved = time.monotonic()

    def validating(self, begins: bool) -> None:
        """Tell that a validation begins, before which a checkpoint has been begun, or ends."""
        with self._changed:
            self._validating = begins

    def pass_step(self, step: int) -> str | None:
        """Return what all processes do at the end of a step: ``'save'``, ``'stop'`` or nothing.

        Args:
            step: number of finished steps, this one among them.
        """
        with self._changed:
            while self._kind is not None and self._target is None and not self._ended.is_set():
                self._changed.wait(POLL)
            self._passed = step
            if self._target is None or step < self._target:
                return None
            kind, self._kind, self._target = self._kind, None, None
            self._round += 1
            return kind

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _serve(self) -> None:
        try:
            while not self._ended.wait(POLL):
                if self._kind is None:
                    self._look()
        except Exception:  # the store is gone, and with it the process that had it
            self._ended.set()
            if self._stop:
                self._leave(False)

    def _look(self) -> None:
        """Open a round where one is wanted, and answer the one that is open."""
        wanted = self._wanted()
        if wanted:
            self._store.compare_set(f'{self._round}/kind', '', wanted)
        elif not self._store.check([f'{self._round}/kind']):
            return
        kind = self._store.get(f'{self._round}/kind').decode()
        with self._changed:
            self._kind, number = kind, self._round
            mine = [self._passed + 1, self._validating]
        self._store.set(f'{number}/at/{self._rank}', json.dumps(mine))
        if self._rank == 0:
            keys = {rank: f'{number}/at/{rank}' for rank in range(self._world_size)}
            if not self._await(keys, kind):
                return
            steps, validating = zip(*(json.loads(self._store.get(key)) for key in keys.values()))
            target = -1 if kind == 'stop' and all(validating) else max(steps)
            self._store.set(f'{number}/target', str(target))
        elif not self._await({0: f'{number}/target'}, kind):
            return
        target = int(self._store.get(f'{number}/target'))
        if target < 0:
            self._leave(True)
        with self._changed:
            self._target = target
            self._changed.notify_all()

    def _wanted(self) -> str | None:
        if self._stop:
            return 'stop'
        due = self._interval is not None and time.monotonic() - self._saved >= self._interval
        return 'save' if due and self._rank == 0 else None

    def _await(self, keys: dict[int, str], kind: str) -> bool:
        """Return whether all keys are there before this process ends its training.

        Args:
            keys: number of the process that gives a key -> the key.
            kind: of the round.
        """
        begin = time.monotonic()
        while missing := [rank for rank, key in keys.items() if not self._store.check([key])]:
            if self._ended.wait(POLL / 5):
                return False
            late = time.monotonic() - begin > GONE
            if kind == 'stop' and (late or any(map(self._is_gone, missing))):
                self._leave(False)
        return True

    def _is_gone(self, rank: int) -> bool:
        """Return whether a process of this machine has ended."""
        if not self._store.check([f'process/{rank}']):
            return False
        machine, pid = json.loads(self._store.get(f'process/{rank}'))
        return machine == machine_id() and started(pid) is None
