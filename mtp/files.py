"""Files that are written atomically, and one error for files that cannot be used."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any


def home() -> Path:
    """Return the folder for what mtp keeps outside a project: ``MTP_HOME``, or ``~/.cache/mtp``."""
    return Path(os.environ.get('MTP_HOME') or '~/.cache/mtp').expanduser()


class UnusableFileError(ValueError):
    """A file that someone gave cannot be used; the message says which, why and how to mend it.

    The tools print the message alone, without a traceback.

    Attributes:
        path: path of the file, where what raises the error knows it.
    """

    path: str | None = None


class MissingFileError(UnusableFileError, FileNotFoundError):
    """A file that someone named does not exist."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to, and rename it to ``path`` if the block ends without an error.

    The folder is created if missing. A process that is killed leaves a file
    ``.<hex digits>.partial.<name>`` beside ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unique to this writer, also among machines that share the folder.
    unfinished = path.with_name(f'.{secrets.token_hex(4)}.partial.{path.name}')
    try:
        yield unfinished
        put_in_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def put_in_place(finished: Path, path: Path) -> None:
    """Sync a file or folder to disk, then rename it to ``path``; a file may replace another."""
    _sync(finished)
    os.replace(finished, path)
    _sync(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Link a file to another place where the file system allows it, else copy it atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        with whole(target) as unfinished:
            shutil.copyfile(source, unfinished)


def remove_unfinished(folder: Path) -> None:
    """Remove the partial files of killed writers below a folder; no writer may be active there."""
    for path in folder.rglob('.*.partial.*'):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole(path) as unfinished:
        unfinished.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; numbers that are not finite become null."""
    write_text(path, json_text(content))


def json_text(
    content: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None
) -> str:
    """Return content as JSON, in which numbers that are not finite become null.

    Args:
        content: content, as ``json.dumps`` takes it.
        indent: spaces of an indentation; None for a single line.
        default: what makes values of other types serialisable.
    """
    try:
        return json.dumps(content, indent=indent, default=default, allow_nan=False)
    except ValueError:  # only then are all values looked at
        finite_default = default and (lambda value: finite(default(value)))
        return json.dumps(finite(content), indent=indent, default=finite_default, allow_nan=False)


def finite(content: Any) -> Any:
    """Return a copy of JSON content with None for each number that is not finite."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    is_number = isinstance(content, Real) and not isinstance(content, Integral)
    return None if is_number and not math.isfinite(content) else content


def read_figures(path: Path) -> dict[str, float]:
    """Return the figures of a JSON file such as ``metrics.json``; NaN stands for null."""
    figures = json.loads(path.read_text())
    return {key: math.nan if value is None else value for key, value in figures.items()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)
