"""What a run was made with and from: code, versions, hardware, data.

``<work dir>/provenance.json`` has an entry for each start of the run. A checkpoint's
``meta['provenance']`` tells of the data and classes, so that whoever loads it is told what differs.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size

import mtp
from mtp.fallback import fall_back
from mtp.files import UnusableFileError, write_json
from mtp.machine import versions

NAME = 'provenance.json'
_ROOT = Path(mtp.__file__).parents[1]
_READ = ('image_set', 'ann_file', 'split')  # what tells the parts of a folder of data apart
_THREADS = 16  # that ask a file system, perhaps a remote one, for sizes


def of_training(cfg: Config, dataset: Any, fingerprints: bool) -> dict[str, Any]:
    """Return what a checkpoint tells of its training, as plain data.

    Args:
        cfg: config of the run.
        dataset: training data.
        fingerprints: whether to look at the data, which asks for the size of every file.
    """
    told = dict(classes=classes(dataset), image_size=image_size(cfg), sources=sources(cfg), data=[])
    if fingerprints:
        try:
            told['data'] = [_fingerprint(part) for part in parts(dataset)]
        except Exception as error:  # of a data set of a kind that nobody has thought of
            fall_back('a fingerprint of the data', 'provenance leaves it out', error)
    return told


def append_start(work_dir: str | Path, training: Mapping[str, Any], **about: Any) -> None:
    """Append this start to ``provenance.json``; a run goes on where that fails.

    Args:
        work_dir: work directory of the run.
        training: what :func:`of_training` returns.
        about: further facts, such as the checkpoint that the run goes on from.
    """
    path = Path(work_dir) / NAME
    entry = dict(
        time=time.strftime('%Y-%m-%d %H:%M:%S %z'),
        command=sys.argv,
        processes=get_world_size(),
        **about,
        **_code(),
        versions=dict(
            python=platform.python_version(),
            cuda=torch.version.cuda,
            mtp=mtp.__version__,
            **versions(),
        ),
        hardware=_hardware(),
        **training,
    )
    try:
        write_json(path, [*read_starts(path), entry])
    except OSError as error:
        fall_back(f'writing {path}', 'this start is left out of it', error)


def classes(dataset: Any) -> dict[str, list[str]]:
    """Return name of a data set -> its classes in label order; the name of a single one is ''."""
    return _classes_of(getattr(dataset, 'metainfo', None))


def image_size(cfg: Config) -> Any:
    """Return the side of the images that a config's backbone is built for; None if it has none."""
    return cfg.get('model', {}).get('backbone', {}).get('img_size')


def sources(cfg: Config) -> list[str]:
    """Return the last part of each folder of training data in a config, and what it reads there."""
    found = set()
    for part in parts((cfg.get('train_dataloader') or {}).get('dataset')):
        if root := getattr(part, 'data_root', None):
            read = next(filter(None, (getattr(part, key, None) for key in _READ)), '')
            found.add(f'{Path(root).name} {read}'.strip())
    return sorted(found)


def differences(
    meta: Mapping[str, Any], cfg: Config, now: Mapping[str, Any], path: str, goes_on: bool
) -> list[str]:
    """Return in sentences how a checkpoint differs from the run that loads it.

    Args:
        meta: meta information of the checkpoint, which is not trusted.
        cfg: config of the run.
        now: what :func:`of_training` returns for the run, or its classes alone.
        path: path of the checkpoint, for the messages.
        goes_on: whether the weights are to be used as they are, to resume or test; otherwise
            another training starts from them, on other data and images.

    Raises:
        UnusableFileError: with ``goes_on``, the classes have another number or order.
    """
    saved = meta.get('provenance')
    saved = saved if isinstance(saved, Mapping) else {}
    known, lines = _classes_of(meta.get('dataset_meta')), []
    for name, expected in now['classes'].items():
        found = known.get(name)
        if found in (None, expected):
            continue
        text = f'{path} was trained for {_named(found)}, not {_named(expected)}' + (
            name and f' of {name}'
        )
        moved = len(found or ()) != len(expected) or set(found or ()) & _moved(found, expected)
        if goes_on and moved:
            raise UnusableFileError(
                f'{text}: its predictions would get the names of other classes. Use the config '
                'and the data that it was trained with'
            )
        lines.append(f'{text}{"" if goes_on else ": heads start from it where shapes are equal"}')
    if not goes_on:
        return lines
    for key, found, title in (
        ('image_size', image_size(cfg), 'images of {} pixels'),
        ('sources', sources(cfg), 'the data of {}'),
    ):
        if saved.get(key) and found and saved[key] != found:
            lines.append(
                f'{path} was trained on {title.format(_text(saved[key]))}, and the config has '
                f'{_text(found)}'
            )
    return lines + _other_data(saved.get('data'), now.get('data', []), path)


def _moved(found: Sequence[str] | None, expected: Sequence[str]) -> set[str]:
    """Return the classes that are at another place than in a checkpoint."""
    return {name for old, name in zip(found or (), expected) if old != name}


def _classes_of(metainfo: Any) -> dict[str, list[str]]:
    if not isinstance(metainfo, Mapping):
        return {}
    several = metainfo.get('datasets')
    every = several if isinstance(several, Mapping) else {'': metainfo}
    return {
        str(name): [str(entry) for entry in meta['classes']]
        for name, meta in every.items()
        if isinstance(meta, Mapping) and isinstance(meta.get('classes'), list | tuple)
    }


def _named(names: Sequence[str] | None, most: int = 4) -> str:
    names = names or ()
    return f'{len(names)} classes ({", ".join(names[:most])}{", ..." * (len(names) > most)})'


def _text(value: Any) -> str:
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


def _other_data(saved: Any, now: Sequence[Mapping[str, Any]], path: str) -> list[str]:
    """Return a sentence for each data set that has changed since a checkpoint was written."""
    if not (isinstance(saved, list) and len(saved) == len(now)):
        return []
    return [
        f'the data{name and f" of {name}"} have changed since {path} was written: there are '
        f'{part["images"]} images in {part["bytes"]} bytes; there were {before.get("images")} in '
        f'{before.get("bytes")}'
        for before, part in zip(saved, now)
        if isinstance(before, Mapping) and before != part
        for name in [part['name']]
    ]


def parts(dataset: Any) -> Iterator[Any]:
    """Yield the data sets, or their configs, that a data set or its config is made of."""
    inner = getattr(dataset, 'datasets', None)
    if inner is None and getattr(dataset, 'dataset', None) is not None:
        inner = [dataset.dataset]  # one that repeats or mixes another
    if inner is None:
        yield dataset
        return
    for part in inner:
        yield from parts(part)


def _fingerprint(dataset: Any) -> dict[str, Any]:
    """Return the counts of a data set, and a hash of the names and sizes of its files."""
    metainfo = getattr(dataset, 'metainfo', {})
    name = str(metainfo.get('name', '')) if isinstance(metainfo, Mapping) else ''
    if not hasattr(dataset, 'get_data_info'):
        return dict(name=name, images=len(dataset), bytes=None, sha256=None)
    paths, labels = [], []
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        of_record = [str(value) for key, value in record.items() if 'path' in key and value]
        paths += of_record
        objects = record.get('instances')
        labels.append(
            (
                len(of_record),
                record.get('gt_label'),
                len(objects) if isinstance(objects, list) else None,
            )
        )
    annotations = str(getattr(dataset, 'image_set', '') or getattr(dataset, 'ann_file', '') or '')
    paths += [annotations] if os.path.isfile(annotations) else []
    sizes = _sizes(paths)
    found = hashlib.sha256(repr([(*count[:1], *map(str, count[1:])) for count in labels]).encode())
    for path, size in zip(paths, sizes):
        found.update(f'{os.sep.join(path.rsplit(os.sep, 2)[-2:])}\t{size}\n'.encode())
    return dict(
        name=name,
        images=len(labels),
        bytes=sum(size for size in sizes if size > 0),
        sha256=found.hexdigest(),
    )


def _sizes(paths: Sequence[str]) -> list[int]:
    """Return the sizes of files in bytes, -1 for a missing one."""
    step = -(-len(paths) // _THREADS) or 1
    chunks = [paths[begin : begin + step] for begin in range(0, len(paths), step)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [size for chunk in pool.map(_sizes_of, chunks) for size in chunk]


def _sizes_of(paths: Sequence[str]) -> list[int]:
    sizes = []
    for path in paths:
        try:
            sizes.append(os.stat(path).st_size)
        except OSError:
            sizes.append(-1)
    return sizes


def _code() -> dict[str, Any]:
    """Return the commit of mtp, and whether files differ from it; None where git does not tell."""
    # An installed package is perhaps in a folder of another project.
    if not (_ROOT / '.git').exists():
        return dict(commit=None, dirty=None)
    commands = (['rev-parse', 'HEAD'], ['status', '--porcelain', '--untracked-files=no'])
    try:
        commit, changed = (
            subprocess.run(
                ['git', *command], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return dict(commit=None, dirty=None)
    return dict(commit=commit, dirty=bool(changed))


def _hardware() -> dict[str, Any]:
    return dict(
        host=platform.node(),
        machine=platform.machine(),
        cores=os.cpu_count(),
        memory=os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    )


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Return the starts in a ``provenance.json``; none where the file is missing or damaged."""
    try:
        starts = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return starts if isinstance(starts, list) else []
