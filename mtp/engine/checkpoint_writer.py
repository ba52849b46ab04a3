"""Checkpoints are written in a thread: the training step waits for the copy only."""

import errno
import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mtp.engine.checkpoints import checksum_file, digest, write_checksums
from mtp.engine.finite import holds_nan, not_finite
from mtp.fallback import fall_back
from mtp.files import whole

_MEND = {
    errno.ENOSPC: 'free some space there',
    errno.EDQUOT: 'free some space of your quota there',
    errno.EROFS: 'make the file system writable',
    errno.EACCES: 'make the folder writable',
}


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or holds values that are not finite."""


class CheckpointWriter:
    """A thread that does jobs one after the other; when one fails the later ones are left out."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
        self._jobs: list[Future[None]] = []
        self._failure: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Have a job done after those before it."""
        self._jobs = [future for future in self._jobs if not future.done()]
        self._jobs.append(self._pool.submit(self._do, job))

    def check(self) -> None:
        """Return without waiting.

        Raises:
            CheckpointError: a job has failed.
        """
        if self._failure is not None:
            raise CheckpointError(str(self._failure)) from self._failure

    def wait(self) -> None:
        """Wait until all jobs are done.

        Raises:
            CheckpointError: one has failed.
        """
        for future in self._jobs:
            future.result()
        self.check()

    def _do(self, job: Callable[[], None]) -> None:
        if self._failure is None:
            try:
                job()
            except Exception as error:
                self._failure = error


def write_file(
    checkpoint: Mapping[str, Any], path: Path, began: Mapping[str, bool] | None = None
) -> None:
    """Write a checkpoint's file and its checksum; it appears once it reads back as written.

    Args:
        checkpoint: a checkpoint as mmengine makes it, on the host.
        path: file to write, which may replace an older one.
        began: as for :func:`bad_values`.

    Raises:
        CheckpointError: a value is not finite, or the file could not be written.
    """
    refuse_not_finite(bad_values(checkpoint, began), path)
    with writing(path), whole(path) as unfinished:
        with open(unfinished, 'wb') as file:
            hashed = _HashedFile(file)
            try:
                torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # it calls these two only
            except Exception as error:  # torch tells of a full disk in its own words
                raise hashed.error or error from error
            os.fsync(file.fileno())
        if digest(unfinished, written=True) != hashed.sha256.hexdigest():
            raise OSError(errno.EIO, 'it does not read back as it was written')
        # A checksum of an older file of this name would refuse the new one.
        checksum_file(path).unlink(missing_ok=True)
    with writing(path):
        write_checksums(path, checkpoint['meta'], {path.name: hashed.sha256.hexdigest()})


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a disk refuses into one error that says what, where and how to mend.

    Args:
        path: checkpoint that is written.

    Raises:
        CheckpointError: the block has failed.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else f'{type(error).__name__}: {error}'
        mend = _MEND.get(number or 0, 'see to the disk')
        raise CheckpointError(
            f'the checkpoint {path} could not be written: {reason}{_free(path)}. '
            f'The checkpoint before it is unharmed: {mend}, and go on with --resume'
        ) from error


def to_host(value: Any) -> Any:
    """Return a copy of a nested structure whose tensors are copies in host memory.

    From a GPU they are copied to pinned memory without waiting for each. What shares its memory
    still does, so that it is written once.
    """
    copied = _copy(value, {})
    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()
    return copied


def bad_values(checkpoint: Mapping[str, Any], began: Mapping[str, bool] | None = None) -> list[str]:
    """Return the names of a checkpoint's weights and optimiser states that hold NaN or infinity.

    Of a tensor in shards the part of this process is looked at.

    Args:
        checkpoint: checkpoint as mmengine makes it.
        began: buffers that were not finite when training began, as
            :func:`mtp.engine.finite.not_finite_buffers` returns them. They are left out, unless
            they hold NaN and did not then.
    """
    parts = {key: checkpoint.get(key, {}) for key in ('state_dict', 'ema_state_dict')}
    names = not_finite({**parts, 'optimizer': checkpoint.get('optimizer', {}).get('state', {})})
    taken = {
        f'{part}.{prefix}{buffer}'
        for part, prefix in (('state_dict', ''), ('ema_state_dict', 'module.'))
        for buffer, held_nan in (began or {}).items()
        if held_nan
        or (value := parts[part].get(f'{prefix}{buffer}')) is None
        or not holds_nan(value)
    }
    return [name for name in names if name not in taken]


def refuse_not_finite(names: list[str], path: Path) -> None:
    """Refuse to write a checkpoint that nobody could go on from.

    Raises:
        CheckpointError: there are names.
    """
    if names:
        raise CheckpointError(
            f'{len(names)} tensors of the checkpoint {path} are not finite, first '
            f'{", ".join(names[:3])}: it is not written. The checkpoint before it is unharmed: go '
            'on from it with --resume, with a lower learning rate or clipped gradients'
        )


class _HashedFile:
    """A file, of what torch writes, that is hashed on the way.

    Attributes:
        sha256: hash of what has been written.
        error: what the disk said when it refused; None otherwise.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            count = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return count

    def flush(self) -> None:
        self._file.flush()


def _copy(value: Any, copies: dict[tuple, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if key not in copies or not value.numel():
            copies[key] = _to_host(value.detach())
        return copies[key]
    if type(value) in (dict, OrderedDict):
        copied = type(value)((key, _copy(entry, copies)) for key, entry in value.items())
        if hasattr(value, '_metadata'):  # the versions of a state dict's modules
            copied._metadata = value._metadata
        return copied
    if type(value) in (list, tuple):
        return type(value)(_copy(entry, copies) for entry in value)
    return value


def _to_host(value: Tensor) -> Tensor:
    if value.is_cuda:
        try:
            pinned = torch.empty_like(value, device='cpu', pin_memory=True)
            return pinned.copy_(value, non_blocking=True)
        except RuntimeError as error:
            fall_back('copying to pinned memory', 'it is pageable', error)
    return value.cpu() if value.device.type != 'cpu' else value.clone()


def _free(path: Path) -> str:
    try:
        return f' ({shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB are free)'
    except OSError:
        return ''
