"""Training samples that cannot be read: which errors count as that, and what takes their place."""

import errno
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from mtp.data.multitask_dataset import stable_hash
from mtp.files import UnusableFileError

KEY = 'replaced_samples'  # of the metainfo of a sample that took the place of others
PAUSES = (0.1, 0.5)  # seconds before the second and the third try
MOST_CANDIDATES = 20  # so many images one after the other: it is not the images
# of the process or the machine, whichever image it reads
_OF_THE_PROCESS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}


class BadFile(Exception):
    """A sample whose files cannot be read.

    Args:
        file: path of the file.
        reason: reason, one line.
        error: error to raise where the sample is not replaced.
    """

    def __init__(self, file: str, reason: str, error: Exception) -> None:
        super().__init__(file, reason)
        self.file, self.reason, self.error = file, reason, error


def candidates(dataset: Any, index: int, sample_seed: int) -> Iterator[int]:
    """Yield the index of a sample, and then of those that take its place, one after the other.

    They are a function of the sample's seed, which is one of (seed of the run, epoch, position).
    In a concatenation they are of the same data set.
    """
    yield index
    first, size, _ = _member(dataset, index)
    for number in range(1, MOST_CANDIDATES):
        yield first + stable_hash(sample_seed, number, 'replacement') % size


def read_candidate(
    dataset: Any,
    index: int,
    sample_seed: int,
    read: Callable[[int, int], Any],
    fatal: str | None = None,
) -> Any:
    """Return a sample; an error of the system is waited out twice.

    Args:
        dataset: data set that it is of, which names the file where the error does not.
        index: index of the sample.
        sample_seed: seed of its random draws.
        read: function that reads it, of the index and the seed.
        fatal: reason why it must not be read; None if it may.

    Raises:
        BadFile: an ``OSError`` came three times, or a file is damaged (``UnusableFileError``). All
            other errors are those of a program or config, and are raised as they are; so are those
            of the whole process, such as too many open files.
    """
    if fatal is not None:
        file = _image(dataset, index)
        raise BadFile(file, fatal, UnusableFileError(f'{file}: {fatal}'))
    for pause in (*PAUSES, None):
        try:
            return read(index, sample_seed)
        except (OSError, UnusableFileError) as error:
            system = _system_error(error)
            if system is not None and system.errno in _OF_THE_PROCESS:
                raise
            if system is None or pause is None:
                reason = ' '.join(str(error).split()) or type(error).__name__
                raise BadFile(_file(error) or _image(dataset, index), reason, error) from error
        time.sleep(pause)
    raise AssertionError('the last try returns or raises')


def _system_error(error: BaseException | None) -> OSError | None:
    """Return the system's error that led to an error, if one did."""
    while error is not None and not (isinstance(error, OSError) and error.errno is not None):
        error = error.__cause__
    return error


def _file(error: Exception) -> str | None:
    path = getattr(error, 'path', None) or getattr(error, 'filename', None)
    return str(path) if path else None


def _image(dataset: Any, index: int) -> str:
    first, _, member = _member(dataset, index)
    try:
        return str(member.get_data_info(index - first)['img_path'])
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        return f'image {index} of the data set'


def _member(dataset: Any, index: int) -> tuple[int, int, Any]:
    """Return first index and size of the data set of a concatenation that an image is of, and it.

    For all others these are 0, the size, and the data set itself.
    """
    ends = getattr(dataset, 'cumulative_sizes', None)
    if ends is None:
        return 0, len(dataset), dataset
    number = bisect_right(ends, index)
    first = ends[number - 1] if number else 0
    return first, ends[number] - first, dataset.datasets[number]
