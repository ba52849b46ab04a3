"""How training starts: one process decides what it goes on from, and tells the others."""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_rank

from mtp.cli.config import default_work_dir
from mtp.cli.lock import Lock
from mtp.engine.checkpoints import POINTER, Checkpoint, candidates, newest, verify
from mtp.engine.store import connect, gather, tell
from mtp.files import write_json
from mtp.machine import LAUNCHERS, started
from mtp.old_names import old_config

# Of those that wait while one process decides, waits for a lock, and reads checkpoints.
TIMEOUT = timedelta(minutes=30)
RECORD = 'last_launch.json'


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        checkpoint: what it goes on from; None to start anew.
        iteration: number of its finished iterations; None where it could not be verified.
        digest: digest of its checksums; None where it has none.
        lines: what the log is to tell.
    """

    checkpoint: str | None = None
    iteration: int | None = None
    digest: str | None = None
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Process:
    """What a process knows of its launch.

    Attributes:
        restarts: how often its launcher has started it again, as far as it knows.
        launch: what its launch is recognised by in a later start of it; None where nothing is.
    """

    restarts: int
    launch: str | None


def last_checkpoint(work_dir: str | Path) -> Path:
    """Return the newest checkpoint of a run that verifies, wherever its folder has been moved to.

    Raises:
        FileNotFoundError: there is none.
        ValueError: all are damaged.
    """
    found, passed_over = newest(work_dir)
    if found is not None:
        return found.path
    if candidates(work_dir):
        raise ValueError(
            f'no checkpoint in {work_dir} is undamaged: {_sentence(passed_over)}. Choose another '
            '--work-dir to start anew'
        )
    raise FileNotFoundError(
        f'nothing to resume in {work_dir}: no checkpoint has been saved '
        'there. Leave out --resume to start, or check --work-dir'
    )


def go_on_under_old_name(cfg: Config) -> str | None:
    """Resume in the folder that the run used before its config was renamed.

    Nothing changes if the work directory is not the config's default, or has a checkpoint.

    Args:
        cfg: config of :func:`mtp.cli.launch.load_config`; its ``work_dir`` is changed in place.

    Returns:
        str | None: line for the run's log; None if nothing changes.
    """
    config, work_dir = Path(cfg.filename), Path(cfg.work_dir)
    old = old_config(config)
    if old is None or work_dir != default_work_dir(config) or (work_dir / POINTER).is_file():
        return None
    folder = default_work_dir(old)
    if not (folder / POINTER).is_file():
        return None
    cfg.work_dir = str(folder)
    return f'The run goes on in {folder}, where it was saved when its config was called {old.name}'


@contextlib.contextmanager
def start(cfg: Config, asked: str | None) -> Iterator[Start]:
    """Hold the lock of a work directory, and yield how training starts there, on all processes.

    The main process decides. Processes that were started again, by torchrun (``--max-restarts``, or
    since a machine was replaced) or SLURM (``--requeue``), go on from the newest checkpoint of
    their run, where it has saved one, whatever was asked for.

    Args:
        cfg: config of :func:`mtp.cli.launch.load_config`; its ``work_dir`` becomes the main
            process's.
        asked: path of a checkpoint, ``'last'``, ``'auto'`` or None.

    Raises:
        FileNotFoundError: the last one is asked for, and there is none.
        ValueError: another training has the directory, it holds checkpoints that are not asked
            for, all of them are damaged, or a process sees another one than the main process.
    """
    lock: Lock | None = None
    failure: Exception | None = None
    try:
        store = connect('start')
        processes = [
            _Process(**facts) for facts in gather(store, 'facts', asdict(_facts(cfg)), TIMEOUT)
        ]
        answer: dict[str, Any] = {}
        if get_rank() == 0:
            try:
                lock, decided = _decide(cfg, asked, processes)
                answer = dict(start=asdict(decided), work_dir=cfg.work_dir)
            except (FileNotFoundError, ValueError) as error:
                failure = error
        answer = tell(store, 'answer', answer, TIMEOUT)
        fault = ''
        if answer and get_rank():
            cfg.work_dir = answer['work_dir']
            fault = _disagreement(Start(**answer['start']))
        # The main process, which may be the store's host, ends only after the others have read.
        faults = tell(store, 'told', gather(store, 'faults', fault, TIMEOUT), TIMEOUT)
        gather(store, 'end', True, TIMEOUT)
        if not answer or any(faults):
            if get_rank():
                raise SystemExit(1)  # the main process says why
            raise failure or ValueError(next(filter(None, faults)))
        yield Start(**answer['start'])
    finally:
        if lock is not None:
            lock.release()


def _decide(cfg: Config, asked: str | None, processes: list[_Process]) -> tuple[Lock, Start]:
    """Return the lock of the work directory, and how training starts, as :func:`start` does."""
    work_dir = Path(cfg.work_dir)
    launches = sorted({process.launch for process in processes if process.launch})
    record = _read_record(work_dir)
    ours = bool(set(launches) & set(record['launches']))
    # SLURM's id of a job is that of all that is started in it, so that it proves no restart.
    again = max(process.restarts for process in processes) > 0 or (
        ours and any(launch.startswith('torchrun') for launch in launches)
    )
    launch = record['id'] if ours and again else secrets.token_hex(8)
    lock = Lock(work_dir, launch, patient=again or asked is not None)
    try:
        decided = _choose(work_dir, asked, again, record['found'] if ours and again else None)
        if not (ours and again):
            record['found'] = _pointed(work_dir)
        write_json(work_dir / RECORD, dict(id=launch, launches=launches, found=record['found']))
    except BaseException:
        lock.release()
        raise
    return lock, decided


def _choose(work_dir: Path, asked: str | None, again: bool, found: str | None) -> Start:
    """Return how training starts.

    Args:
        work_dir: the work directory.
        asked: as of :func:`start`.
        again: whether the processes were started again.
        found: what the pointer named before this launch, which then has saved nothing if it still
            does; None where that is not known.
    """
    has_saved = found is None or found != _pointed(work_dir)
    if asked in ('last', 'auto') or (again and has_saved):
        checkpoint, passed_over = newest(work_dir)
        if checkpoint is not None:
            return _from(checkpoint, passed_over)
        if asked == 'last' or candidates(work_dir):
            last_checkpoint(work_dir)  # raises: there is none, or all are damaged
    if asked in (None, 'auto'):
        if (there := candidates(work_dir)) and not again:
            raise ValueError(
                f'{work_dir} holds checkpoints of an earlier run, such as {there[-1].name}: add '
                '--resume to go on from them, or choose another --work-dir'
            )
        return Start()
    if not Path(asked).exists():
        return Start(asked)  # what loads it says what it is
    return _from(verify(Path(asked)), [])


def _from(checkpoint: Checkpoint, passed_over: list[str]) -> Start:
    lines = [f'Goes on from {checkpoint.path}, after {checkpoint.iteration} iterations']
    if passed_over:
        lines.append(f'Passed over: {_sentence(passed_over)}')
    if checkpoint.digest is None:
        lines.append(
            f'{checkpoint.path} has no checksum beside it: whether it is undamaged is not known'
        )
    return Start(str(checkpoint.path), checkpoint.iteration, checkpoint.digest, lines)


def _disagreement(decided: Start) -> str:
    """Return why this process cannot start as the main process does; '' where it can."""
    if decided.iteration is None:
        return ''
    where = f'process {get_rank()} on {socket.gethostname()}'
    try:
        seen = verify(Path(decided.checkpoint or ''))
    except (OSError, ValueError) as error:
        return f'{where} cannot go on from the checkpoint of the main process: {error}'
    if (seen.iteration, seen.digest) != (decided.iteration, decided.digest):
        return (
            f'{where} sees another {decided.checkpoint} than the main process: put the work '
            'directory on a file system that all machines share'
        )
    return ''


def _facts(cfg: Config) -> _Process:
    restarts = max(int(os.environ.get(launcher.restarts, 0)) for launcher in LAUNCHERS.values())
    if cfg.launcher == 'slurm' and 'SLURM_JOB_ID' in os.environ:
        return _Process(restarts, f'slurm job {os.environ["SLURM_JOB_ID"]}')
    return _Process(restarts, _agent())


def _agent() -> str | None:
    """Return what tells the torchrun that has started this process; None without one.

    Its own id, ``--rdzv_id``, is the same for all runs unless one is given.
    """
    parent = os.getppid()
    try:
        command = Path(f'/proc/{parent}/cmdline').read_text().split('\0')
    except OSError:
        return None
    names = {Path(argument).name for argument in command}
    if not names & {'torchrun', 'torch.distributed.run', 'torch.distributed.launch'}:
        return None
    return f'torchrun {parent} on {socket.gethostname()} since {started(parent)}'


def _read_record(work_dir: Path) -> dict[str, Any]:
    """Return which launch was the last one in a work directory; nothing where it cannot be read."""
    nothing: dict[str, Any] = dict(id=None, launches=[], found=None)
    try:
        record = json.loads((work_dir / RECORD).read_text())
    except (OSError, ValueError):
        return nothing
    if not (isinstance(record, dict) and isinstance(record.get('launches'), list)):
        return nothing
    return {key: record.get(key, value) for key, value in nothing.items()}


def _pointed(work_dir: Path) -> str:
    """Return what the pointer holds and when it was written; '' where there is none."""
    try:
        pointer = work_dir / POINTER
        return f'{pointer.read_bytes()!r} {pointer.stat().st_mtime_ns}'
    except OSError:
        return ''


def _sentence(reasons: Iterable[str]) -> str:
    return '; '.join(' '.join(reason.split()) for reason in reasons)
