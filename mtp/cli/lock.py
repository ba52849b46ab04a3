"""One training at a time in a work directory.

The owner touches its lock every ten seconds from a thread. A lock whose owner is gone blocks
nobody; one whose owner cannot be seen, on another machine, blocks while it is touched.
"""

import errno
import json
import os
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtp.files import write_text
from mtp.machine import machine_id, started

NAME = 'training.lock'
BEAT, SILENCE, PATIENCE = 10.0, 30.0, 60.0  # seconds
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_SETTLE = 0.5  # seconds in which heirs that take over at once see each other


class LockedError(ValueError):
    """Another training has the work directory."""


@dataclass(frozen=True)
class _Owner:
    """What a lock tells.

    Attributes:
        about: what the owner has written: machine, host, process, launch.
        touched: time of its last sign of life by the file system's clock, nanoseconds.
    """

    about: dict[str, Any]
    touched: int

    def is_gone(self) -> bool:
        """Return whether it is a process of this machine that has ended."""
        return self.about.get('machine') == machine_id() and self.about.get('started') != started(
            self.about.get('pid')
        )

    def __str__(self) -> str:
        host, pid = self.about.get('host', 'a host'), self.about.get('pid', 'unknown')
        return f'process {pid} on {host}'


class Lock:
    """The lock of a work directory, held by this process.

    Args:
        work_dir: the directory, made where it is missing.
        launch: id of the launch, for those who read the lock.
        patient: whether to wait for an owner whose signs of life may be about to end, as one that
            goes on does: up to a minute.

    Raises:
        LockedError: another training has it.
        ValueError: nothing can be written there.
    """

    def __init__(self, work_dir: Path, launch: str, patient: bool) -> None:
        self.path = work_dir / NAME
        self._text = json.dumps(
            dict(
                host=socket.gethostname(),
                pid=os.getpid(),
                started=started(os.getpid()),
                machine=machine_id(),
                launch=launch,
                token=secrets.token_hex(8),
            )
        )
        self._released = threading.Event()
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
            self._acquire(patient)
        except OSError as error:
            raise ValueError(f'nothing can be written in {work_dir}: {error.strerror}') from error
        threading.Thread(target=self._beat, name='lock', daemon=True).start()

    def release(self) -> None:
        """Give the directory up; nothing where that has been done."""
        if not self._released.is_set():
            self._released.set()
            if self._is_ours():
                self.path.unlink(missing_ok=True)

    def _acquire(self, patient: bool) -> None:
        begin = time.monotonic()
        seen, changed = None, begin
        while not self._create():
            owner, now = self._read(), time.monotonic()
            if owner is None:
                continue
            if owner.touched != seen:
                seen, changed = owner.touched, now
            silent = now - changed if patient else self._age(owner)
            if owner.is_gone() or silent >= (SILENCE if patient else PATIENCE):
                if self._take_over(owner):
                    return
            elif not patient or now - begin >= PATIENCE:
                raise LockedError(
                    f'{owner} is training in {self.path.parent}: wait until it has ended, or '
                    'choose another --work-dir'
                )
            time.sleep(min(0.5, BEAT / 10))

    def _create(self) -> bool:
        """Return whether the lock was free, and is ours now."""
        own = self.path.with_name(f'.{secrets.token_hex(4)}.partial.{NAME}')
        own.write_text(self._text)
        try:
            os.link(own, self.path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create_in_place()
        finally:
            own.unlink()
        return True

    def _create_in_place(self) -> bool:
        """Do as :meth:`_create` on a file system without links: the lock is empty for a moment."""
        try:
            with open(self.path, 'x') as file:
                file.write(self._text)
        except FileExistsError:
            return False
        return True

    def _take_over(self, owner: _Owner) -> bool:
        """Return whether the lock of an owner that is gone is ours; another heir may be faster."""
        if self._read() != owner:
            return False
        write_text(self.path, self._text)
        time.sleep(_SETTLE)
        return self._is_ours()

    def _read(self) -> _Owner | None:
        """Return the owner; None where there is none."""
        try:
            with open(self.path) as file:
                text, touched = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None
        try:
            about = json.loads(text)
        except ValueError:
            about = None
        return _Owner(about if isinstance(about, dict) else {}, touched)

    def _is_ours(self) -> bool:
        owner = self._read()
        return owner is not None and owner.about == json.loads(self._text)

    def _age(self, owner: _Owner) -> float:
        """Return how long ago an owner gave a sign of life, by the file system's clock, seconds."""
        now = self.path.with_name(f'.{secrets.token_hex(4)}.partial.{NAME}')
        now.touch()
        age = now.stat().st_mtime_ns - owner.touched
        now.unlink()
        return age / 1e9

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            try:
                with open(self.path) as file:
                    if file.read() == self._text:
                        os.utime(file.fileno())
                        continue
            except OSError:  # the file system is away for a moment
                continue
            if not self._released.is_set():
                print(
                    f'error: another training has taken over {self.path.parent}, since this one '
                    'gave no sign of life: it ends',
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
