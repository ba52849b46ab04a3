"""Packed form of a data set: uncompressed pixels in a few large files, mapped into memory.

A folder holds ``pack.json`` (a description), ``index`` (:class:`mtp.data.index.Index`),
``places.npy`` and the shards. ``places.npy`` is int64 ``(N, 3)``: shard, first byte, number of runs
of the label map. A shard holds, for each image, its pixels, uint8 ``(H, W, 3)`` RGB, and then its
label map as runs, uint16 ``(R, 4)``: row, first column, column after the last, label. An image is
read without those before it, and only the memory pages that a crop shows are read.
"""

import json
import mmap
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset
from tqdm import tqdm

from mtp.data.coco_objects import count_objects
from mtp.data.decoding import check_shape, read_image
from mtp.data.index import DIGESTS, Entry, Index, load_array, verify_index, write_index
from mtp.data.label_files import read_json
from mtp.data.labels import read_labels
from mtp.data.samrs.records import TASKS, SAMRSDataset, index_columns, palette
from mtp.data.tally import Tally
from mtp.data.values import MAX_PIXELS, check_name
from mtp.files import UnusableFileError, remove_unfinished, whole, write_text
from mtp.registry import DATASETS
from mtp.sample_fields import IGNORED, find_labels

VERSION = 1
SHARD_BYTES = 1 << 30  # size at which a shard is closed
_PAGE = mmap.ALLOCATIONGRANULARITY


@dataclass
class PackReport:
    """Result of packing.

    Attributes:
        images: number of images packed, now or by earlier runs.
        bad: one line per image left out, with its file and the reason.
    """

    images: int = 0
    bad: list[str] = field(default_factory=list)


def pack(source: SAMRSDataset, folder: str | Path, workers: int | None = None) -> PackReport:
    """Write the packed form of ``source``.

    Shards are written atomically: restarted after an interruption, the function writes only the
    missing ones.

    Args:
        source: data set to pack, with all its tasks.
        folder: folder to write to; its content must have been packed from the same files.
        workers: number of processes; None for one per core.

    Raises:
        ValueError: the folder was packed from something else, or a task needs files of its own.
    """
    unpackable = [row.task for row in source.rows if row.reads_files and row.task != 'semantic']
    if unpackable:
        raise ValueError(
            f'the packed form cannot hold the files of {unpackable}: leave these '
            "out of the data set's `tasks`, or train from the files"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    meta = source.metainfo
    if not meta.get('masks', True):
        raise ValueError(
            f'the data set {meta["name"]!r} has boxes without masks (masks=False), which packed '
            'files do not tell from masks: train from the files'
        )
    plan = _plan(source)
    what = dict(
        version=VERSION,
        source=str(Path(source.ann_file).resolve()),
        labels=(source.index.folder / 'stamp.json').read_text(),
        name=meta['name'],
        classes=meta['classes'],
        tasks=meta['tasks'],
        shards=[[part.start, part.stop] for part in plan],
    )
    _claim(folder / 'source.json', what)
    remove_unfinished(folder)
    report = PackReport()
    missing = [i for i in range(len(plan)) if not _names(folder, i)[1].is_file()]
    with ProcessPoolExecutor(workers) as pool:
        tasks = [pool.submit(_write_shard, source, folder, i, plan[i]) for i in missing]
        for task in tqdm(tasks, 'shards', disable=None):
            report.bad += task.result()

    rows = [np.load(_names(folder, i)[1]) for i in range(len(plan))]
    numbers = np.concatenate([row[:, 0] for row in rows])
    places = np.concatenate([np.insert(row[:, 1:], 0, i, axis=1) for i, row in enumerate(rows)])
    named = {line.split(':')[0] for line in report.bad}
    for number in sorted(set(range(len(source))) - set(numbers.tolist())):
        name = source.index[number].file_name
        if name not in named:
            report.bad.append(f'{name}: left out by an earlier run; remove {folder} to try again')
    report.images = len(numbers)
    (folder / 'index').mkdir(exist_ok=True)
    entries = [source.index[n] for n in numbers]
    tally = _count(source, entries)
    for line in report.bad:
        tally.leave_out('images that cannot be packed', line)
    write_index(folder / 'index', entries, source.index.columns, tally)
    with whole(folder / 'places.npy') as unfinished:
        np.save(unfinished, places)
    sizes = [_names(folder, i)[0].stat().st_size for i in range(len(plan))]
    write_text(folder / 'pack.json', json.dumps(dict(what, sizes=sizes), indent=1))
    return report


def _count(source: SAMRSDataset, entries: Sequence[Entry]) -> Tally:
    """Return the counts of packed images, with what their source left out."""
    tally = Tally()
    tally.add(Tally(0, 0, left_out=source.tally.left_out, notes=source.tally.notes))
    for entry in entries:
        tally.add(count_objects(entry.labels.tolist(), entry.crowd.tolist(), source.names))
    return tally


def _plan(source: SAMRSDataset) -> list[range]:
    """Divide the images among the shards: the indices of each shard's images."""
    plan, begin, size = [], 0, 0
    for number in range(len(source)):
        height, width = source.index[number].size
        size += height * width * 3
        if size >= SHARD_BYTES or number == len(source) - 1:
            plan.append(range(begin, number + 1))
            begin, size = number + 1, 0
    return plan


def _claim(path: Path, what: dict) -> None:
    """Record what a folder is packed from; refuse one that is packed from something else."""
    text = json.dumps(what)
    if not path.exists():
        write_text(path, text)
    elif path.read_text() != text:
        raise ValueError(
            f'{path.parent} was packed from other files or with other settings '
            f'({path.name}): choose another folder, or remove it'
        )


def _names(folder: Path, shard: int) -> tuple[Path, Path]:
    """Return the files of a shard and of its table: index in the source, first byte, runs."""
    return folder / f'shard_{shard:05d}.bin', folder / f'shard_{shard:05d}.npy'


def _write_shard(source: SAMRSDataset, folder: Path, shard: int, numbers: range) -> list[str]:
    """Write a shard and then its table; return a line for each image left out."""
    path, table = _names(folder, shard)
    rows, bad = [], []
    with whole(path) as unfinished, open(unfinished, 'wb') as file:
        for number in numbers:
            record = source.get_data_info(number)
            try:
                image, runs = _read(record)
            except ValueError as error:
                bad.append(f'{record["labels"].file_name}: {error}')
                continue
            rows.append((number, file.tell(), len(runs)))
            file.write(image.data)
            file.write(runs.data)
            file.write(bytes(-file.tell() % _PAGE))
    with whole(table) as unfinished:
        np.save(unfinished, np.array(rows, np.int64).reshape(-1, 3))
    return bad


def _read(record: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of an image, and the runs of its label map."""
    size = record['labels'].size
    if max(size) > np.iinfo(np.uint16).max:
        raise ValueError(f'it has {size} pixels, but a packed label map has 65,535 a side at most')
    image = read_image(record['img_path'], size)
    check_shape(record['img_path'], image.shape, size)
    if 'semantic' not in record['tasks']:
        return np.ascontiguousarray(image), np.zeros((0, 4), np.uint16)
    return np.ascontiguousarray(image), map_runs(read_labels(record, size))


def map_runs(labels: np.ndarray) -> np.ndarray:
    """Return the runs of equal labels other than 0 in the rows of a map, uint16 ``(R, 4)``.

    A run is: row, first column, column after the last, label.
    """
    framed = np.pad(labels, ((0, 0), (1, 1)))
    row, column = np.nonzero(framed[:, 1:] != framed[:, :-1])
    value = framed[row, column + 1]
    # a run ends where the next one of its row begins, background included
    starts = np.flatnonzero(value)
    return np.stack([row[starts], column[starts], column[starts + 1], value[starts]], 1).astype(
        np.uint16
    )


def _read_description(path: Path) -> dict:
    try:
        what = read_json(path)
        what = {key: what[key] for key in ('version', 'name', 'classes', 'tasks', 'sizes')}
        for key, kind in (('classes', str), ('tasks', str), ('sizes', int)):
            if not isinstance(what[key], list) or any(type(v) is not kind for v in what[key]):
                raise ValueError(f'its {key} are {what[key]!r:.60}')
        return what
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UnusableFileError:
    reason = ' '.join(str(error).split())
    damaged = UnusableFileError(
        f'{path} is damaged ({type(error).__name__}: {reason:.200}): copy the packed folder again, '
        'or remove it and pack again'
    )
    damaged.path = str(path)
    return damaged


def _check_runs(runs: np.ndarray, size: tuple[int, int], classes: int) -> None:
    """Check the runs of a label map, as :func:`map_runs` returns them.

    Raises:
        ValueError: they leave the image, overlap, or hold a value that is no class.
    """
    row, first, last, label = np.ascontiguousarray(runs.T, np.int64)
    height, width = size
    begin, end = row * width + first, row * width + last
    known = (label > 0) & ((label <= classes) | (label == IGNORED))
    inside = (row < height) & (first < last) & (last <= width) & known
    if not inside.all() or (begin[1:] < end[:-1]).any():
        raise ValueError(
            f'no label map of {classes} classes for {height} x {width} pixels (index/sizes.npy)'
        )


class Shards:
    """Images and label maps of a packed folder. A copy in another process maps the files again.

    Args:
        folder: packed folder.
        sizes: expected size of each shard in bytes.

    Raises:
        ValueError: a shard is missing or has another size.
    """

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        self.folder, self.sizes = folder, list(sizes)
        try:
            self.places = np.array(load_array(folder / 'places.npy'))
        except (OSError, ValueError) as error:
            raise _damaged(folder / 'places.npy', error) from error
        self._maps = []
        for number, size in enumerate(sizes):
            path = _names(folder, number)[0]
            found = path.stat().st_size if path.is_file() else 0
            if found != size:
                raise ValueError(
                    f'{path} has {found} bytes, but {size} were packed: it was cut '
                    'short or is missing; copy it again, or remove it with its .npy '
                    'and pack again'
                )
            with open(path, 'rb') as file:
                self._maps.append(
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b''
                )

    def __reduce__(self) -> tuple:
        return Shards, (self.folder, self.sizes)

    def check(self, images: np.ndarray) -> None:
        """Check that the places of all images are within the shards.

        Args:
            images: height and width of each image in pixels, int ``(N, 2)``.

        Raises:
            UnusableFileError: they are not.
        """
        places, path = self.places, self.folder / 'places.npy'
        if places.dtype != np.int64 or places.shape != (len(images), 3):
            raise _damaged(path, ValueError(f'it holds {places.dtype}, {places.shape}'))
        shard, start, runs = places.T
        pixels = images.astype(np.int64).prod(1)
        whole = (images > 0).all(1) & (pixels <= MAX_PIXELS) & (runs >= 0) & (runs <= pixels)
        whole &= (shard >= 0) & (shard < len(self.sizes)) & (start >= 0)
        bad = np.flatnonzero(~whole)
        if not len(bad):
            room = np.array([*self.sizes, 0])[shard] - (pixels * 3 + runs * 8)
            bad = np.flatnonzero(start > room)
        if len(bad):
            reason = f'image {bad[0]}, of the size in index/sizes.npy, is not within its shard'
            raise _damaged(path, ValueError(reason))

    def path(self, number: int) -> Path:
        """Return the file that holds an image."""
        return _names(self.folder, self.places[number, 0])[0]

    def read(self, number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return views of an image's pixels and of its label map's runs.

        Args:
            number: index of the image.
            size: height and width of the image in pixels.

        Returns:
            Pixels, uint8 ``(H, W, 3)`` RGB; runs, uint16 ``(R, 4)``.
        """
        shard, start, runs = self.places[number].tolist()
        length = size[0] * size[1] * 3
        data = np.frombuffer(self._maps[shard], np.uint8, length + runs * 8, start)
        return data[:length].reshape(*size, 3), data[length:].view(np.uint16).reshape(-1, 4)


@DATASETS.register_module()
class PackedDataset(BaseDataset):
    """A data set packed by ``mtp data pack``, for training.

    A record is that of :class:`mtp.data.SAMRSDataset`, with the pixels in ``img`` and the label
    map's runs in ``map_runs``. Its ``img_path`` is only a name. :class:`mtp.data.LoadCrop` reads
    both kinds of record.

    Args:
        data_root: folder of the packed form.
        name: name of the data set in the model; None for its name when it was packed.
        tasks: labels to use, as for :class:`mtp.data.SAMRSDataset`.
        pipeline: transforms of an item, :class:`mtp.data.LoadCrop` first.
        test_mode: test mode, as in mmengine.

    Raises:
        FileNotFoundError: ``pack.json`` is missing: packing has not finished.
        ValueError: the version differs, a shard is truncated, or a task was not packed.
    """

    def __init__(
        self,
        data_root: str,
        name: str | None = None,
        tasks: Sequence[str | dict] = TASKS,
        pipeline: Sequence = (),
        test_mode: bool = False,
    ) -> None:
        root = Path(data_root)
        path = root / 'pack.json'
        if not path.is_file():
            raise FileNotFoundError(
                f'no {path}: pack the data set with `mtp data pack`, or '
                'start it again if it was interrupted'
            )
        what = _read_description(path)
        if what['version'] != VERSION:
            raise ValueError(
                f'{path} is of version {what["version"]}, this mtp reads {VERSION}: pack again'
            )
        self.rows = find_labels(tasks)
        tasks = tuple(row.task for row in self.rows)
        if not set(tasks) <= set(what['tasks']):
            raise ValueError(f'tasks={tasks!r}, but {root} was packed with {what["tasks"]}')
        try:
            if (root / 'index' / DIGESTS).is_file():  # packs of release 0.1 have none
                verify_index(root / 'index')
            self.index = Index(root / 'index', index_columns(self.rows))
            self.index.check()
        except (OSError, ValueError) as error:
            raise _damaged(root / 'index', error) from error
        self.tally = self.index.tally
        self.shards = Shards(root, what['sizes'])
        self.shards.check(self.index.sizes)
        classes = tuple(what['classes'])
        super().__init__(
            metainfo=dict(classes=classes, tasks=tasks, palette=palette(len(classes))),
            pipeline=list(pipeline),
            test_mode=test_mode,
            lazy_init=True,
        )
        self._metainfo['name'] = name or what['name']
        self._fully_initialized = True

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.index)

    def get_data_info(self, idx: int) -> dict:
        """Return the record of an image."""
        entry = self.index[idx]
        image, runs = self.shards.read(idx, entry.size)
        self._check(idx, entry, runs)
        return dict(
            dataset=self._metainfo['name'],
            tasks=self._metainfo['tasks'],
            num_classes=len(self._metainfo['classes']),
            sample_idx=idx,
            img_id=entry.img_id,
            img_path=entry.file_name,
            height=entry.size[0],
            width=entry.size[1],
            labels=entry,
            img=image,
            map_runs=runs,
        )

    def _check(self, idx: int, entry: Entry, runs: np.ndarray) -> None:
        """Check the values of an image's labels, which crash or mislead where they are used.

        Raises:
            UnusableFileError: a value is none that packing writes.
        """
        classes, path = len(self._metainfo['classes']), self.shards.path(idx)
        try:
            _check_runs(runs, entry.size, classes)
            path = self.index.folder
            check_name(entry.file_name, f'image {idx}')
            for row in self.rows:
                row.check(entry, classes)
        except ValueError as error:
            raise _damaged(path, error) from error
