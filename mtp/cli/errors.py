"""Errors of users, reported in at most three lines, once for all processes of a run."""

import argparse
import linecache
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

LINES = 3  # of a message at most
# Where mmengine reads configs, and where it calls the classes that they name.
CONFIGS, BUILDING = 'mmengine/config/', 'mmengine/registry/build_functions.py'


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug``, which shows the traceback of a user's error."""
    parser.add_argument('--debug', action='store_true', help='show where an error was raised')


@contextmanager
def users_errors(debug: bool = False) -> Iterator[None]:
    """End the program with the message alone of an error that its user can mend.

    Others, which are faults of the program, pass. Of the processes of a launcher, the first one
    tells.

    Args:
        debug: whether to print the traceback too.

    Raises:
        SystemExit: the message after ``error:``, or 1 where another process has told.
    """
    try:
        yield
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        if debug:
            traceback.print_exc()
        raise SystemExit(f'error: {_short(message)}' if _is_first() else 1) from error


def explain(error: BaseException) -> str | None:
    """Return the message of a user's error, None for another one.

    A user's errors are what mtp itself raises as a ``ValueError`` or as a class of its own, files
    that cannot be opened, names in a config that do not exist, and memory that does not suffice.
    """
    text = str(error).strip()
    if text.startswith('Caught '):  # torch sends that of a worker as the text of its traceback
        return _of_worker(error, text)
    if type(error).__module__.partition('.')[0] == 'mtp':
        return text
    if isinstance(error, OSError) and error.filename is not None:
        return f'{error.strerror}: {error.filename}'
    if isinstance(error, FileNotFoundError | FileExistsError):
        return text
    if isinstance(error, ValueError) and _raised_by_mtp(error.__traceback__):
        return text
    if isinstance(error, ImportError) and 'Failed to import' in text:  # mmengine's, of a config
        return text
    if (reason := _of_config(error, text)) is not None:
        return reason
    return _of_memory(error, text) or _of_dead_worker(error)


def _of_config(error: BaseException, text: str) -> str | None:
    """Return why mmengine cannot read a config or build a part of it, None for another error."""
    if not isinstance(error, AssertionError | KeyError | RuntimeError | TypeError | ValueError):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    paths = [frame.f_code.co_filename for frame in frames]
    if CONFIGS in paths[-1]:
        return text
    if BUILDING not in ''.join(paths) or isinstance(error, RuntimeError):
        return None
    if isinstance(error, KeyError) and 'registry' in text:
        return str(error.args[0]).partition('. Please check whether')[0]
    built = [
        frame.f_locals.get('obj_cls') for frame in frames if BUILDING in frame.f_code.co_filename
    ]
    name = getattr(built[-1], '__name__', 'a part of the config')
    return f'{name} cannot be built as the config has it: {type(error).__name__}: {text}'


def _of_worker(error: BaseException, text: str) -> str | None:
    """Return the message of what a worker of a loader raised, if it is a user's error."""
    raised = text.rpartition('\n  File "')[2]
    own = type(error).__module__.partition('.')[0] == 'mtp'
    if own or (isinstance(error, ValueError) and f'{os.sep}mtp{os.sep}' in raised.split('"')[0]):
        return raised.rpartition('Error: ')[2]
    return None


def _of_memory(error: BaseException, text: str) -> str | None:
    if type(error).__name__ != 'OutOfMemoryError' and 'DefaultCPUAllocator' not in text:
        return None
    said = text.splitlines()[0]
    if '--images-per-gpu' in said:  # mtp.engine.memory has explained it
        return said
    return (
        f'the batch does not fit into memory: {said}\n'
        'Take fewer images at once: --images-per-gpu N leaves the images of a step as they are, '
        'where the config has total_batch_size; else lower the batch_size of the loader'
    )


def _of_dead_worker(error: BaseException) -> str | None:
    if not isinstance(error, RuntimeError | ConnectionError | EOFError):
        return None
    # Imported here: a program that starts has no torch yet.
    from mtp.engine.loader_workers import explain_death

    return explain_death(error)


def _place(trace: TracebackType | None) -> tuple[str, int]:
    """Return file and line in which an error was raised."""
    frames = list(traceback.walk_tb(trace))
    if not frames:
        return '', 0
    frame, line = frames[-1]
    return frame.f_code.co_filename, line


def _raised_by_mtp(trace: TracebackType | None) -> bool:
    """Return whether a statement ``raise`` of mtp has raised an error."""
    path, line = _place(trace)
    ours = Path(__file__).resolve().parents[1] in Path(path).resolve().parents
    return ours and linecache.getline(path, line).lstrip().startswith('raise')


def _short(message: str) -> str:
    """Return a message of at most three lines."""
    lines = [line.rstrip() for line in message.strip().splitlines() if line.strip()]
    rest = ' '.join(line.strip() for line in lines[LINES - 1 :])
    return '\n'.join(filter(None, [*lines[: LINES - 1], rest]))


def _is_first() -> bool:
    """Return whether no other process of this launch has told of an error."""
    if 'torch' not in sys.modules:
        return True
    from mtp.engine.store import launch_store

    try:
        store = launch_store('errors')
        # once for each start of the processes
        attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
        return store is None or store.add(attempt, 1) == 1
    except RuntimeError:  # its host cannot be reached
        return True
