"""Signals that ask a run to stop. Imports no torch: they are heeded from the first moment on.

SIGTERM, SIGUSR1 and Ctrl-C (SIGINT) end the process with :data:`EXIT_CODE`: at once until training
has begun, then after a checkpoint has been written. A second Ctrl-C ends it at once.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# sysexits.h: a failure that is temporary, "the user is invited to retry". Neither the code of an
# error (1, 2), nor what shells make of a signal (above 128).
EXIT_CODE = os.EX_TEMPFAIL  # 75
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(SystemExit):
    """A run has written its checkpoint, and ends because a signal asked for it."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class StopSignals:
    """Context in which the signals are heeded, whatever the main thread is doing.

    Attributes:
        name: of the first signal that came; None before.
        at_exit: functions that are called before the process is ended from a thread.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.at_exit: list[Callable[[], None]] = []
        self._run: Callable[[str], None] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> 'StopSignals':
        global _current
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        for number in STOPPING:
            self._before[number] = signal.signal(number, _nothing)
        # Written by the handler in C: the main thread may wait for a device or a process.
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        _current = self
        threading.Thread(target=self._heed, name='signals', daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current = None
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._write)  # ends the thread

    def attach(self, run: Callable[[str], None] | None) -> None:
        """Have a function called, from a thread, with a signal's name; None to end at once."""
        self._run = run

    def leave(self, message: str, code: int = EXIT_CODE) -> None:
        """End the process from a thread, whatever the main thread is doing."""
        print(message, file=sys.stderr, flush=True)
        for function in self.at_exit:
            function()
        os._exit(code)

    def _heed(self) -> None:
        interrupted = False
        while numbers := os.read(self._read, 64):
            for number in numbers:
                if number not in STOPPING:
                    continue
                if number == signal.SIGINT and interrupted:
                    self.leave('Ctrl-C again: it ends at once', 128 + signal.SIGINT)
                interrupted |= number == signal.SIGINT
                first, self.name = self.name is None, signal.Signals(number).name
                if self._run is None:
                    self.leave(f'{self.name} before training: nothing is to be saved')
                elif first:
                    self._run(self.name)
        os.close(self._read)


def current() -> StopSignals:
    """Return what heeds signals in this process; what nobody has entered heeds none."""
    return _current or StopSignals()


def _nothing(number: int, frame: FrameType | None) -> None:
    """Handler in Python, beside the one in C that writes to the pipe."""


def _in_child() -> None:
    """Leave the signals of a process to itself: its children share the pipe."""
    global _current
    if _current is not None:
        _current = None
        signal.set_wakeup_fd(-1)
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)


_current: StopSignals | None = None
os.register_at_fork(after_in_child=_in_child)
