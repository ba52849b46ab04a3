"""Checkpoints on the disk: their checksums, the pointer, and the newest one that verifies.

Beside a checkpoint ``NAME``, a file or a folder, ``NAME.sha256`` holds the digests of its files as
``sha256sum --check`` reads them, below a comment with iteration, epoch and time. The pointer,
``last_checkpoint``, holds the path of the last one that has been verified.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtp.files import write_text
from mtp.models.weights.safe_loading import load_safely

POINTER = 'last_checkpoint'
REST = 'rest.pth'  # of a folder: everything but the tensors
_NAME = re.compile(r'(?:iter|epoch)_\d+\.pth')
_BLOCK = 1 << 24  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been verified.

    Attributes:
        path: file or folder.
        iteration: number of finished iterations.
        digest: digest of its checksum file; None where it has none.
    """

    path: Path
    iteration: int
    digest: str | None


class UnverifiedError(ValueError):
    """A checkpoint is damaged."""


def checksum_file(path: Path) -> Path:
    """Return the file that holds a checkpoint's checksums."""
    return path.with_name(f'{path.name}.sha256')


def digest(path: Path, written: bool = False) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Args:
        path: the file.
        written: whether it has just been written: then it is read from the disk, not from the
            memory in which it was left, if the system allows that.
    """
    with open(path, 'rb') as file:
        if written and hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = hashlib.sha256()
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def write_checksums(path: Path, meta: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Write the checksum file of a checkpoint.

    Args:
        path: file or folder.
        meta: meta information of the checkpoint, as mmengine writes it.
        digests: name of each file below the checkpoint's folder -> its SHA-256.
    """
    about = {key: meta.get(key) for key in ('iter', 'epoch', 'time')}
    lines = [f'# {json.dumps(about)}', *(f'{value}  {name}' for name, value in digests.items())]
    write_text(checksum_file(path), '\n'.join(lines) + '\n')


def verify(path: Path) -> Checkpoint:
    """Return a checkpoint whose content is as it was written.

    One without a checksum file, of an earlier release or from elsewhere, must be readable.

    Args:
        path: file or folder.

    Raises:
        FileNotFoundError: no such checkpoint.
        UnverifiedError: it is damaged, or what is beside it belongs to another.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing')
    checksums = checksum_file(path)
    if not checksums.is_file():
        return Checkpoint(path, _iteration(path, _read_meta(path)), None)
    meta, digests = _read_checksums(checksums)
    for name, expected in digests.items():
        file = path.parent / name
        if not file.is_file() or file.stat().st_size == 0:
            raise UnverifiedError(f'{file} is {"empty" if file.is_file() else "missing"}')
        if digest(file) != expected:
            raise UnverifiedError(
                f'{file} is damaged: it differs from its checksum in {checksums.name}'
            )
    return Checkpoint(path, _iteration(path, meta), digest(checksums))


def newest(work_dir: str | Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint of a run that verifies, and why newer ones were passed over.

    It is the one that the pointer names, otherwise the one that was saved last, wherever the
    folder has been moved to.
    """
    work_dir, passed_over = Path(work_dir), list[str]()
    pointed = _pointed_at(work_dir, passed_over)
    for path in _in_order(work_dir, pointed, passed_over):
        try:
            return verify(path), passed_over
        except (OSError, ValueError) as error:
            passed_over.append(str(error))
    return None, passed_over


def candidates(work_dir: str | Path) -> list[Path]:
    """Return what has the name of a checkpoint to resume from in a folder, damaged or not."""
    try:
        return sorted(path for path in Path(work_dir).iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def write_pointer(work_dir: str | Path, path: str | Path) -> None:
    """Make a checkpoint the last one of a run."""
    write_text(Path(work_dir) / POINTER, str(path))


def remove(path: Path) -> None:
    """Remove a checkpoint, file or folder, and its checksum file; nothing where it is missing."""
    checksum_file(path).unlink(missing_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _pointed_at(work_dir: Path, passed_over: list[str]) -> Path | None:
    pointer = work_dir / POINTER
    try:
        name = Path(pointer.read_text().strip()).name
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        passed_over.append(f'{pointer} cannot be read: {error}')
        return None
    if not _NAME.fullmatch(name):
        passed_over.append(f'{pointer} names no checkpoint')
        return None
    return work_dir / name


def _in_order(work_dir: Path, pointed: Path | None, passed_over: list[str]) -> Iterator[Path]:
    """Yield checkpoints, the one that the pointer names first, then from the newest to the oldest.

    The others are looked at only when the first does not do.
    """
    if pointed is not None:
        yield pointed
    ages = {}
    for path in candidates(work_dir):
        if path != pointed:
            try:
                ages[path] = _age(path)
            except (OSError, ValueError) as error:
                passed_over.append(str(error))
    yield from sorted(ages, key=lambda path: ages[path], reverse=True)


def _age(path: Path) -> tuple[str, int]:
    """Return a key that is greater for a later checkpoint."""
    checksums = checksum_file(path)
    meta = _read_checksums(checksums)[0] if checksums.is_file() else _read_meta(path)
    return str(meta.get('time')), _iteration(path, meta)


def _read_checksums(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the meta information and the digests of a checksum file, which is not trusted."""
    try:
        first, *lines = path.read_text().splitlines()
        meta = json.loads(first.removeprefix('# '))
        digests = {name: value for value, name in (line.split('  ', 1) for line in lines)}
        name = path.name.removesuffix('.sha256')
        whole = {name} == set(digests) or all(
            Path(file).parent == Path(name) for file in digests or ['']
        )
        if not (isinstance(meta, dict) and whole):
            raise ValueError
    except (ValueError, OSError) as error:
        raise UnverifiedError(f'{path} is damaged') from error
    return meta, digests


def _read_meta(path: Path) -> dict[str, Any]:
    checkpoint = load_safely(path / REST if path.is_dir() else path)
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if not isinstance(meta, dict):
        raise UnverifiedError(f'{path} holds no checkpoint of training')
    return meta


def _iteration(path: Path, meta: Mapping[str, Any]) -> int:
    iteration = meta.get('iter')
    if not isinstance(iteration, int) or iteration < 0:
        raise UnverifiedError(f'{path} holds no checkpoint of training: it names no iteration')
    return iteration
