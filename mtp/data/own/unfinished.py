"""State of an import: the same one goes on where it ended, and others do not mix with its files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from mtp.data.image_files import is_hidden
from mtp.files import write_text

STATE = '.import'  # file of the state, in the folder that an import writes first


def fingerprint(facts: Iterable[object], sources: Iterable[Path]) -> str:
    """Return a digest of an import: equal ones write the same files.

    Args:
        facts: options, and what is written where; their ``repr`` counts.
        sources: files that are read, of which name, size and time count.
    """
    digest = hashlib.blake2b(digest_size=16)
    for fact in facts:
        digest.update(f'{fact!r}\n'.encode())
    for path in sources:
        found = path.stat()
        digest.update(f'{path.absolute()} {found.st_size} {found.st_mtime_ns}\n'.encode())
    return digest.hexdigest()


def is_same(folder: Path, state: str) -> bool:
    """Return whether a folder holds an import of this state, unfinished or not."""
    path = folder / STATE
    return path.is_file() and path.read_text() == state


def begin(folder: Path, state: str) -> None:
    """Begin an import in an empty or new folder, or go on with an equal one.

    Raises:
        FileExistsError: the folder holds another import, or files of something else.
    """
    if is_same(folder, state):
        return
    if (folder / STATE).is_file():
        raise FileExistsError(
            f'{folder} holds an unfinished import with other options, or of files that have '
            'changed since: remove it, or choose another folder'
        )
    if folder.is_dir() and not all(is_hidden(path.name) for path in folder.iterdir()):
        raise FileExistsError(
            f'{folder} holds files that this import did not write: remove it, or choose another '
            'folder'
        )
    write_text(folder / STATE, state)
