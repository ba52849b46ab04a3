"""Files: written whole or not at all, and one error for those that cannot be used."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UnusableFileError(ValueError):
    """A file that someone gave cannot be used; the message says which, why and how to mend it.

    The tools print the message alone, without a traceback.
    """


class MissingFileError(UnusableFileError, FileNotFoundError):
    """A file that someone named does not exist."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``path`` when the block ends without an error.

    The folder is made when needed. A process that is killed leaves ``.<letters>.partial.<name>``
    beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No two writers share it, on this machine or on others.
    unfinished = path.with_name(f'.{secrets.token_hex(4)}.partial.{path.name}')
    try:
        yield unfinished
        put_in_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def put_in_place(finished: Path, path: Path) -> None:
    """Rename a file or folder once its content is on the disk; a file replaces an older one."""
    _sync(finished)
    os.replace(finished, path)
    _sync(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed have left below a folder; none may be at work there."""
    for path in folder.rglob('.*.partial.*'):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write a json file, whole or not at all."""
    write_text(path, json.dumps(content))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)
