"""The labels of a data set as arrays on disk, mapped into memory and shared by all processes."""
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtp.files import whole, write_json

VERSION = 1


@dataclass
class Entry:
    """What an index holds of an image.

    Attributes:
        img_id: number of the image.
        file_name: as the data set names it.
        size: height and width in pixels.
        boxes: float32 ``(n, 4)``, xyxy in pixels.
        labels: int64 ``(n,)``, from 0.
        crowd: bool ``(n,)``.
        counts: COCO's compressed run lengths of each object.
        rotated: float32 ``(m, 5)``, cx, cy, w, h in pixels, angle in radians.
        rotated_labels: int64 ``(m,)``, from 0.
    """
    img_id: int
    file_name: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    counts: list[bytes]
    rotated: np.ndarray
    rotated_labels: np.ndarray


class Index:
    """Entries, read when asked for. A copy sent to another process maps the same files again.

    Args:
        folder: of the arrays.
    """
    _ARRAYS = ('ids', 'sizes', 'names', 'name_ends', 'boxes', 'labels', 'crowd', 'object_ends',
               'counts', 'count_ends', 'rotated', 'rotated_labels', 'rotated_ends')

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # a plain view of the map: the subclass memmap makes each slice slower
        self._arrays = {name: np.asarray(np.load(folder / f'{name}.npy', mmap_mode='r'))
                        for name in self._ARRAYS}

    def __reduce__(self) -> tuple:
        return Index, (self.folder,)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._arrays['ids'])

    def __getitem__(self, number: int) -> Entry:
        if not 0 <= number < len(self):
            raise IndexError(f'image {number} of {len(self)}')
        arrays = self._arrays
        objects = _range(arrays['object_ends'], number)
        rotated = _range(arrays['rotated_ends'], number)
        first = int(arrays['count_ends'][objects.start - 1]) if objects.start else 0
        ends = arrays['count_ends'][objects].tolist()
        data = arrays['counts'][first:ends[-1] if ends else first].tobytes()
        return Entry(
            img_id=int(arrays['ids'][number]),
            file_name=arrays['names'][_range(arrays['name_ends'], number)].tobytes().decode(),
            size=tuple(arrays['sizes'][number].tolist()),
            boxes=arrays['boxes'][objects].copy(), labels=arrays['labels'][objects].copy(),
            crowd=arrays['crowd'][objects].copy(),
            counts=[data[start - first:end - first] for start, end in zip([first, *ends], ends)],
            rotated=arrays['rotated'][rotated].copy(),
            rotated_labels=arrays['rotated_labels'][rotated].copy())


def _range(ends: np.ndarray, number: int) -> slice:
    return slice(int(ends[number - 1]) if number else 0, int(ends[number]))


def write_index(folder: Path, entries: Iterable[Entry]) -> None:
    """Write the arrays of ``entries`` into ``folder``, which exists."""
    entries = list(entries)
    names = [entry.file_name.encode() for entry in entries]
    counts = [mask for entry in entries for mask in entry.counts]
    arrays = dict(
        ids=np.array([entry.img_id for entry in entries], np.int64),
        sizes=np.array([entry.size for entry in entries], np.int32).reshape(-1, 2),
        names=np.frombuffer(b''.join(names), np.uint8), name_ends=_ends(names),
        boxes=_joined([e.boxes for e in entries], (0, 4), np.float32),
        labels=_joined([e.labels for e in entries], 0, np.int64),
        crowd=_joined([e.crowd for e in entries], 0, bool),
        object_ends=_ends([e.labels for e in entries]),
        counts=np.frombuffer(b''.join(counts), np.uint8), count_ends=_ends(counts),
        rotated=_joined([e.rotated for e in entries], (0, 5), np.float32),
        rotated_labels=_joined([e.rotated_labels for e in entries], 0, np.int64),
        rotated_ends=_ends([e.rotated_labels for e in entries]))
    for name, array in arrays.items():
        with whole(folder / f'{name}.npy') as unfinished:
            np.save(unfinished, array)


def _ends(parts: list) -> np.ndarray:
    return np.cumsum([len(part) for part in parts], dtype=np.int64)


def _joined(parts: list[np.ndarray], shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(shape, dtype), *parts]).astype(dtype, copy=False)


def cached_index(root: Path, key: tuple, sources: Iterable[Path],
                 read: Callable[[], Iterable[Entry]]) -> Index:
    """The index of a data set, made if there is none or if a source has changed since.

    It lies in ``.mtp_index`` of the data set, or, where that cannot be written, in the system's
    folder for temporary files. Processes that make it at once do not disturb each other.

    Args:
        root: of the data set.
        key: what the index depends on beside the sources.
        sources: files, and folders for all files in them, of which size and time are compared.
        read: gives the entries.
    """
    stamp = _digest((VERSION, key, *map(_state, sources)))
    name = _digest((str(root.resolve()), key))
    home = root / '.mtp_index'
    if not os.access(root, os.W_OK):
        home = Path(tempfile.gettempdir()) / f'mtp_index_{os.getuid()}'
    folder = home / name
    stamp_file = folder / 'stamp.json'
    if not (stamp_file.is_file() and json.loads(stamp_file.read_text()) == stamp):
        home.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix='partial_', dir=home))
        try:
            write_index(partial, read())
            write_json(partial / stamp_file.name, stamp)
            _replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Index(folder)


def _replace(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; open maps of the old files stay valid."""
    while True:
        try:
            new.rename(folder)
            return
        except OSError:  # there is one, perhaps another process's
            old = Path(tempfile.mkdtemp(prefix='old_', dir=folder.parent))
            try:
                folder.rename(old / folder.name)
            except FileNotFoundError:
                pass
            shutil.rmtree(old, ignore_errors=True)


def _state(source: Path) -> tuple:
    """Names, sizes and times of a file or of the files in a folder."""
    if source.is_dir():
        with os.scandir(source) as files:
            return tuple(sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns)
                                for f in files if f.is_file()))
    if not source.exists():
        return source.name, None  # whoever reads it knows best what to say
    status = source.stat()
    return source.name, status.st_size, status.st_mtime_ns


def _digest(value: tuple) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=12).hexdigest()
