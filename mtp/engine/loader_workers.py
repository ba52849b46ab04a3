"""What a loader's workers need besides loading: signals left to the main process, and reports."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from ctypes import Array, c_char, c_longlong
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from torch.utils.data import DataLoader, get_worker_info

from mtp.data.sample_seeds import SeededDataset

_LENGTH = 1024  # bytes of a path that are kept
_NO_DATA = ('/proc/', '/dev/', '/sys/')
# path that a worker has opened last, by the number of the worker, for each loader
_opened: list[list['Array[c_char]']] = []


@dataclass(frozen=True)
class WorkerReports:
    """What workers report to the main process in shared memory; a loader's ``worker_init_fn``.

    Attributes:
        before: loader's own ``worker_init_fn``, if any.
        opened: process, and path that it has opened last, of each worker.
        reading: seed of the sample that each worker reads, -1 for none, and the number of the
            candidate for it, one after the other.
    """

    before: Callable[[int], None] | None
    opened: list['Array[c_char]']
    reading: 'Array[c_longlong]'

    def __call__(self, worker: int) -> None:
        """Begin as a worker."""
        _outlive_signals()
        report = self.opened[worker]
        report.value = f'{os.getpid()} '.encode()
        sys.addaudithook(partial(_note, report, f'{os.getpid()} '.encode()))
        dataset = getattr(get_worker_info(), 'dataset', None)
        if isinstance(dataset, SeededDataset):
            dataset.tell(partial(self._tell, worker))
        if self.before is not None:
            self.before(worker)

    def _tell(self, worker: int, sample_seed: int, candidate: int) -> None:
        self.reading[2 * worker : 2 * worker + 2] = [sample_seed, candidate]

    def clear(self) -> None:
        """Forget what workers read that have ended."""
        self.reading[:] = [-1, 0] * len(self.opened)

    def sample_of(self, worker: int) -> tuple[int, int] | None:
        """Return seed and number of the candidate that a worker reads; None if it reads none."""
        sample_seed, candidate = self.reading[2 * worker : 2 * worker + 2]
        return None if sample_seed < 0 else (sample_seed, candidate)

    def file_of(self, worker: int) -> str:
        """Return the path that a worker has opened last, 'none' without one."""
        return _read(self.opened[worker])[1] or 'none'


def watch_workers(loader: DataLoader) -> None:
    """Make the workers of a loader outlive signals, and report what they read."""
    opened = [multiprocessing.RawArray('c', _LENGTH) for _ in range(loader.num_workers)]
    reports = WorkerReports(
        loader.worker_init_fn, opened, multiprocessing.RawArray('q', 2 * loader.num_workers)
    )
    reports.clear()
    _opened.append(opened)
    loader.worker_init_fn = reports


def describe_workers() -> str:
    """Return what the workers of all loaders do; those alone that cannot go on, if there are any.

    Returns:
        str: process, state and last file of each; '' without workers.
    """
    workers = []
    for pid, path in _workers():
        if state := _state(pid):
            workers.append((pid, state, path or 'none'))
    stuck = [worker for worker in workers if worker[1] in _STUCK] or workers
    return '; '.join(
        f'worker {pid} ({_STUCK.get(state, "at work")}), the file that it opened last: {path}'
        for pid, state, path in stuck[:8]
    )


def explain_death(error: RuntimeError | ConnectionError | EOFError) -> str | None:
    """Return torch's message of a worker's death with the file that it read.

    The connection to a worker may be lost, or end, before torch sees that it has died.

    Returns:
        str | None: message in one line; None if the error is another one.
    """
    text = ' '.join(str(error).split()).rstrip(' .')
    found = re.match(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)', text)
    workers = dict(_workers())
    if found is not None:
        pids = found[1].split(', ')
    elif isinstance(error, ConnectionError | EOFError):
        pids = _ended(workers)
        text = f'DataLoader worker {", ".join(pids)} has ended ({text or "its connection too"})'
    else:
        return None
    if not pids:
        return None
    files = [path for pid, path in workers.items() if pid in pids]
    return f'{text}, the file that it opened last: {", ".join(filter(None, files)) or "none"}'


def _read(report: 'Array[c_char]') -> tuple[str, str]:
    """Return the process of a worker, and the path that it has opened last, '' without one."""
    pid, _, path = report.value.decode(errors='replace').partition(' ')
    return pid, path


def _workers() -> Iterator[tuple[str, str]]:
    """Yield the process, and the path opened last, of each worker that has ever started."""
    for pid, path in map(_read, chain.from_iterable(_opened)):
        if pid:
            yield pid, path


def _ended(workers: Iterable[str]) -> list[str]:
    """Return the processes that have ended; one that is ending gets a second for it."""
    for _ in range(20):
        if pids := [pid for pid in workers if _state(pid) == 'Z']:
            return pids
        time.sleep(0.05)
    return []


_STUCK = {'T': 'stopped', 'D': 'waiting for a disk or file server', 'Z': 'ended'}


def _state(pid: str) -> str:
    """Return the letter of a process's state; '' where it is no process."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return ''


def _note(report: 'Array[c_char]', prefix: bytes, event: str, args: tuple) -> None:
    if event == 'open' and isinstance(args[0], str | bytes | os.PathLike):
        path = os.fsencode(args[0])
        if not path.startswith(tuple(map(str.encode, _NO_DATA))) and b'.py' not in path[-4:]:
            report.value = (prefix + path)[: _LENGTH - 1]


def _outlive_signals() -> None:
    """Keep a worker alive when its whole process group gets a signal, as from torchrun.

    The main process still needs its batches until it has come to the step that it stops at. A
    SIGTERM of the main process itself ends the worker.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_with_parent, name='signals', daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
