"""Labels of a data set as arrays on disk, mapped into memory and shared by all processes."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mmengine.logging import print_log

from mtp.data.tally import Tally
from mtp.files import UnusableFileError, home, whole, write_json

VERSION = 2  # raised when readers take other objects than before
STAMP, DIGESTS, TALLY = 'stamp.json', 'digests.json', 'tally.json'
Rows = np.ndarray | list[bytes]  # rows of an image in a column


class Entry(SimpleNamespace):
    """Labels of an image, as an index holds them.

    Attributes:
        img_id: id of the image.
        file_name: name of the image's file in the data set.
        size: height and width in pixels.
        others: values of the columns, by their names.
    """


@dataclass(frozen=True)
class Column:
    """An array of an index: the rows of all images, concatenated.

    Attributes:
        of: kind of thing that has a row each, e.g. ``'object'``; columns of one kind share
            ``<of>_ends``, the ends of each image's rows.
        dtype: type of the array.
        shape: shape of a row.
    """

    of: str
    dtype: type
    shape: tuple[int, ...] = ()

    @property
    def nothing(self) -> Rows:
        """Rows of an image that has none."""
        return np.zeros((0, *self.shape), self.dtype)

    def files(self, name: str) -> tuple[str, ...]:
        """Return the names of the arrays that hold the column ``name``."""
        return name, f'{self.of}_ends'

    def join(self, name: str, images: Sequence[Rows]) -> dict[str, np.ndarray]:
        """Return the arrays of :meth:`files`, joined from each image's rows."""
        joined = np.concatenate([self.nothing, *images]).astype(self.dtype, copy=False)
        return dict(zip(self.files(name), (joined, _ends(images))))

    def check(self, name: str, arrays: dict[str, np.ndarray], images: int) -> None:
        """Check the arrays of :meth:`files` in an index of a number of images.

        Raises:
            ValueError: one is of another type or shape, or does not fit the others.
        """
        _, *ends = self.files(name)
        _check_type(name, arrays, self.dtype, self.shape)
        count = images
        for end, parts in zip(ends, (*ends[1:], name)):
            _check_ends(end, arrays, count, parts)
            count = len(arrays[parts])

    def take(self, name: str, arrays: dict[str, np.ndarray], rows: slice) -> Rows:
        """Return a copy of some rows."""
        return arrays[name][rows].copy()


@dataclass(frozen=True)
class BytesColumn(Column):
    """A column of byte strings, one per row, with an array of their ends."""

    dtype: type = np.uint8

    @property
    def nothing(self) -> list[bytes]:
        """Rows of an image that has none."""
        return []

    def files(self, name: str) -> tuple[str, ...]:
        """Return the names of the arrays that hold the column ``name``, a plural."""
        return *super().files(name), f'{name.removesuffix("s")}_ends'

    def join(self, name: str, images: Sequence[Rows]) -> dict[str, np.ndarray]:
        """Return the arrays of :meth:`files`, joined from each image's strings."""
        strings = [string for image in images for string in image]
        joined = np.frombuffer(b''.join(strings), np.uint8)
        return dict(zip(self.files(name), (joined, _ends(images), _ends(strings))))

    def take(self, name: str, arrays: dict[str, np.ndarray], rows: slice) -> list[bytes]:
        """Return the strings of some rows."""
        all_ends = arrays[self.files(name)[-1]]
        first = int(all_ends[rows.start - 1]) if rows.start else 0
        ends = all_ends[rows].tolist()
        data = arrays[name][first : ends[-1] if ends else first].tobytes()
        return [data[start - first : end - first] for start, end in zip([first, *ends], ends)]


class Index:
    """Entries, read on access. A copy sent to another process maps the same files again.

    Args:
        folder: folder of the arrays.
        columns: columns to read, by name.
    """

    def __init__(self, folder: Path, columns: Mapping[str, Column]) -> None:
        self.folder, self.columns = folder, columns
        names = {file for name, column in columns.items() for file in column.files(name)}
        self._arrays = {
            name: load_array(folder / f'{name}.npy')
            for name in {'ids', 'sizes', 'names', 'name_ends', *names}
        }
        self._things = {column.of for column in columns.values()}

    @property
    def tally(self) -> Tally:
        """Counts of what the index holds and of what was left out, read from the folder."""
        path = self.folder / TALLY
        if not path.is_file():  # packs of release 0.1 have none
            return Tally(images=len(self))
        tally = Tally()
        tally.add(Tally(**json.loads(path.read_text())))
        return tally

    def check(self) -> None:
        """Check that each entry can be read; its values may still be any.

        Raises:
            UnusableFileError: an array is of another type or shape, or does not fit the others, or
                a name is no text.
        """
        arrays = self._arrays
        try:
            _check_type('ids', arrays, np.int64)
            _check_type('sizes', arrays, np.int32, (2,))
            _check_type('names', arrays, np.uint8)
            if len(arrays['sizes']) != len(self):
                raise ValueError(f'sizes.npy has {len(arrays["sizes"])} rows, ids.npy {len(self)}')
            _check_ends('name_ends', arrays, len(self), 'names')
            for name, column in self.columns.items():
                column.check(name, arrays, len(self))
            for number in range(len(self)):
                arrays['names'][_range(arrays['name_ends'], number)].tobytes().decode()
        except ValueError as error:
            raise UnusableFileError(f'{self.folder} is damaged: {error}') from error

    def __reduce__(self) -> tuple:
        return Index, (self.folder, self.columns)

    @property
    def sizes(self) -> np.ndarray:
        """Height and width of each image in pixels, int32 ``(N, 2)``."""
        return self._arrays['sizes']

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._arrays['ids'])

    def __getitem__(self, number: int) -> Entry:
        if not 0 <= number < len(self):
            raise IndexError(f'image {number} of {len(self)}')
        arrays = self._arrays
        rows = {thing: _range(arrays[f'{thing}_ends'], number) for thing in self._things}
        return Entry(
            img_id=int(arrays['ids'][number]),
            file_name=arrays['names'][_range(arrays['name_ends'], number)].tobytes().decode(),
            size=tuple(arrays['sizes'][number].tolist()),
            **{
                name: column.take(name, arrays, rows[column.of])
                for name, column in self.columns.items()
            },
        )


def load_array(path: Path) -> np.ndarray:
    """Map an array of a file into memory.

    Raises:
        OSError: the file is missing or cannot be read.
        UnusableFileError: it holds no array.
    """
    try:
        # a plain view of the map: the subclass memmap makes each slice slower
        return np.asarray(np.load(path, mmap_mode='r'))
    except OSError:
        raise
    except Exception as error:  # numpy reads the header as Python's text, with all its errors
        reason = ' '.join(str(error).split())
        raise UnusableFileError(
            f'{path} is damaged ({type(error).__name__}: {reason:.200})'
        ) from error


def _check_type(
    name: str, arrays: dict[str, np.ndarray], dtype: type, shape: tuple[int, ...] = ()
) -> None:
    """Check the type of an array, and the shape of its rows.

    Raises:
        ValueError: they differ.
    """
    array = arrays[name]
    if array.dtype != dtype or array.ndim != 1 + len(shape) or array.shape[1:] != shape:
        raise ValueError(
            f'{name}.npy holds {array.dtype}, {array.shape}, not {np.dtype(dtype)}, {("n", *shape)}'
        )
    # numpy counts on it that bools are 0 or 1
    if dtype is bool and array.view(np.uint8).max(initial=0) > 1:
        raise ValueError(f'{name}.npy holds bools that are neither 0 nor 1')


def _check_ends(name: str, arrays: dict[str, np.ndarray], count: int, parts: str) -> None:
    """Check that ``count`` ends divide the array ``parts``.

    Raises:
        ValueError: they do not.
    """
    _check_type(name, arrays, np.int64)
    ends = arrays[name]
    steps = np.concatenate([[0], ends, [len(arrays[parts])]])
    if len(ends) != count or (steps[1:] < steps[:-1]).any() or steps[-1] != steps[-2]:
        raise ValueError(f'{name}.npy does not divide {parts}.npy among {count}')


def _range(ends: np.ndarray, number: int) -> slice:
    return slice(int(ends[number - 1]) if number else 0, int(ends[number]))


def write_index(
    folder: Path, entries: Iterable[Entry], columns: Mapping[str, Column], tally: Tally
) -> None:
    """Write the arrays of ``entries``, and their counts, into an existing folder.

    An entry without the attribute of a column gets no rows in it.
    """
    entries = list(entries)
    names = [entry.file_name.encode() for entry in entries]
    arrays: dict[str, np.ndarray] = dict(
        ids=np.array([entry.img_id for entry in entries], np.int64),
        sizes=np.array([entry.size for entry in entries], np.int32).reshape(-1, 2),
        names=np.frombuffer(b''.join(names), np.uint8),
        name_ends=_ends(names),
    )
    for name, column in columns.items():
        arrays |= column.join(name, [getattr(entry, name, column.nothing) for entry in entries])
    for name, array in arrays.items():
        with whole(folder / f'{name}.npy') as unfinished:
            np.save(unfinished, array)
    write_json(folder / TALLY, vars(tally))
    write_json(folder / DIGESTS, {name: _file_digest(folder, name) for name in (*arrays, TALLY)})


def verify_index(folder: Path) -> None:
    """Check that the arrays of an index are those that were written.

    Raises:
        FileNotFoundError: the index has no digests; earlier versions wrote none.
        UnusableFileError: the digests or an array are damaged, or an array is missing.
    """
    path = folder / DIGESTS
    text = path.read_text()
    try:
        digests = json.loads(text)
        there = {path.stem for path in folder.glob('*.npy')}
        if there != set(digests) - {TALLY}:
            raise ValueError('it lists other arrays than there are')
        for name, digest in digests.items():
            path = _file(folder, name)
            if _file_digest(folder, name) != digest:
                raise ValueError('it differs from its digest')
    except (OSError, ValueError, AttributeError) as error:
        raise UnusableFileError(f'{path} is damaged: {error}') from error


def _file(folder: Path, name: str) -> Path:
    return folder / (name if name == TALLY else f'{name}.npy')


def _file_digest(folder: Path, name: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(_file(folder, name), 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _ends(parts: Iterable[Sized]) -> np.ndarray:
    return np.cumsum([len(part) for part in parts], dtype=np.int64)


def cached_index(
    root: Path,
    key: tuple,
    sources: Iterable[Path],
    columns: Mapping[str, Column],
    read: Callable[[], Iterable[Entry]],
    tally: Tally,
) -> Index:
    """Open the index of a data set; build it if it is missing or damaged, or a source has changed.

    It is kept in ``.mtp_index`` in the data set's root; if that is not writable, in
    :func:`mtp.files.home`; if that is not either, in the system's folder for temporary files. One
    process builds it; others that need it meanwhile wait, if the file system has locks.

    Args:
        root: root folder of the data set.
        key: values that the index depends on besides the sources.
        sources: files, and folders for all files in them, whose sizes and times are compared.
        columns: columns of the entries, by name.
        read: function that returns the entries.
        tally: counts that ``read`` fills; they are kept with the index.
    """
    stamp = _digest((VERSION, key, *map(_state, sources)))
    name = _digest((str(root.resolve()), key))
    places = [
        root / '.mtp_index',
        home() / 'index',
        Path(tempfile.gettempdir()) / f'mtp_index_{os.getuid()}',
    ]
    for place in places:
        try:
            if _is_current(place / name, stamp):
                return Index(place / name, columns)
        except (OSError, ValueError) as error:
            message = f'{error}: the index {place / name} is made again'
            print_log(message, 'current', logging.WARNING)
    place = _first_writable(places)
    folder = place / name
    with _alone_in(place):
        with suppress(OSError, ValueError):
            if _is_current(folder, stamp):  # made by another process meanwhile
                return Index(folder, columns)
        partial = Path(tempfile.mkdtemp(prefix='partial_', dir=place))
        try:
            write_index(partial, read(), columns, tally)
            write_json(partial / STAMP, stamp)
            _replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Index(folder, columns)


def _is_current(folder: Path, stamp: str) -> bool:
    """Return whether an index is there, and is that of the sources as they are.

    Raises:
        OSError, ValueError: it is damaged.
    """
    try:
        if json.loads((folder / STAMP).read_text()) != stamp:
            return False
        verify_index(folder)
    except FileNotFoundError:
        return False
    return True


def _first_writable(folders: Sequence[Path]) -> Path:
    """Return the first of some folders that can be written to; it is made if it is missing."""
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise PermissionError(
        f'no index of labels can be written to {" or ".join(map(str, folders))}: set MTP_HOME to a '
        'folder that can be written to'
    )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; do without where the file system has none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; open maps of the old files stay valid."""
    while True:
        try:
            new.rename(folder)
            return
        except OSError:  # the folder exists, perhaps made by another process
            old = Path(tempfile.mkdtemp(prefix='old_', dir=folder.parent))
            try:
                folder.rename(old / folder.name)
            except FileNotFoundError:
                pass
            shutil.rmtree(old, ignore_errors=True)


def _state(source: Path) -> tuple:
    """Return name, size and time of a file, or those of all files in a folder."""
    if source.is_dir():
        with os.scandir(source) as files:
            return tuple(
                sorted(
                    (f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()
                )
            )
    if not source.exists():
        return source.name, None  # its reader raises the better error
    status = source.stat()
    return source.name, status.st_size, status.st_mtime_ns


def _digest(value: tuple) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=12).hexdigest()
