"""What a loader's workers need besides loading: signals left to the main process, and a report."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from ctypes import Array, c_char
from functools import partial
from itertools import chain
from pathlib import Path

from torch.utils.data import DataLoader

_LENGTH = 1024  # bytes of a path that are kept
_NO_DATA = ('/proc/', '/dev/', '/sys/')
# path that a worker has opened last, by the number of the worker, for each loader
_opened: list[list['Array[c_char]']] = []


def watch_workers(loader: DataLoader) -> None:
    """Make the workers of a loader outlive signals, and report the file that they open last."""
    reports = [multiprocessing.RawArray('c', _LENGTH) for _ in range(loader.num_workers)]
    _opened.append(reports)
    loader.worker_init_fn = partial(_begin, loader.worker_init_fn, reports)


def describe_workers() -> str:
    """Return what the workers of all loaders do; those alone that cannot go on, if there are any.

    Returns:
        str: process, state and last file of each; '' without workers.
    """
    workers = []
    for report in chain.from_iterable(_opened):
        pid, _, path = report.value.decode(errors='replace').partition(' ')
        if state := _state(pid):
            workers.append((pid, state, path or 'none'))
    stuck = [worker for worker in workers if worker[1] in _STUCK] or workers
    return '; '.join(
        f'worker {pid} ({_STUCK.get(state, "at work")}), the file that it opened last: {path}'
        for pid, state, path in stuck[:8]
    )


_STUCK = {'T': 'stopped', 'D': 'waiting for a disk or file server', 'Z': 'ended'}


def _state(pid: str) -> str:
    """Return the letter of a process's state; '' where it is no process."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return ''


def _begin(
    before: Callable[[int], None] | None, reports: list['Array[c_char]'], worker: int
) -> None:
    _outlive_signals()
    report = reports[worker]
    report.value = f'{os.getpid()} '.encode()
    sys.addaudithook(partial(_note, report, f'{os.getpid()} '.encode()))
    if before is not None:
        before(worker)


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
