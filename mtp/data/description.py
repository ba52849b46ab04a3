"""``data.yaml``: where a data set of one's own lies, and what it holds.

Also read as ultralytics and Roboflow write it: their keys ``path``, ``train``, ``val``, ``test``,
``names`` and ``nc`` mean the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mtp.data.class_names import check_classes
from mtp.data.label_files import read_text
from mtp.files import UnusableFileError, write_text
from mtp.spelling import suggest

SPLITS = ('train', 'val', 'test')
KEYS = (
    'path',
    *SPLITS,
    'names',
    'task',
    'label_values',
    'bands',
    'mean',
    'std',
    'nodata',
    'gsd',
    'stretch',
    'stretched',
)
# Of other programs; they change nothing that is read here.
FOREIGN = ('nc', 'download', 'roboflow', 'channels', 'license', 'author')
POSE = ('kpt_shape', 'flip_idx')  # keypoints, whose lines could be taken for polygons


@dataclass(frozen=True)
class Description:
    """Content of a ``data.yaml``.

    Attributes:
        path: the file.
        root: root folder of the data.
        splits: ``'train'``, ``'val'`` or ``'test'`` -> folders or files of its images.
        names: class names in label order; empty if the labels give them.
        task: task, as in ``configs/finetune``; None if it follows from the labels.
        label_values: value of a label map, a number or a colour ``'#rrggbb'`` -> class name.
        bands: bands of the images to use, from 1 on; empty for all. With ``stretch``, those of the
            scenes: the files hold only these, in this order.
        mean: mean of each band, in the image's unit.
        std: standard deviation of each band, in the image's unit.
        nodata: value of pixels without data; None if there is none.
        gsd: ground sampling distance in metres; None if unknown.
        stretch: how 8 bits were made of the scenes, or are to be made where the files have more:
            for each band, the value that becomes 0 and the one that becomes 255; or the rule
            ``'MIN,MAX'`` or ``'p2,p98'``.
        stretched: name of a scene -> limits of each band that the rule gave.
    """

    path: Path
    root: Path
    splits: Mapping[str, tuple[Path, ...]]
    names: tuple[str, ...] = ()
    task: str | None = None
    label_values: Mapping[int | str, str] = field(default_factory=dict)
    bands: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    nodata: float | None = None
    gsd: float | None = None
    stretch: tuple[tuple[float, float], ...] | str = ()
    stretched: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


def read_description(path: Path) -> Description:
    """Read a ``data.yaml``.

    Raises:
        FileNotFoundError: the file, its root or a split is missing.
        UnusableFileError: it is no yaml, or a key is unknown or has a value of another kind.
    """
    content = _read_yaml(path)
    for key in content:
        if key not in (*KEYS, *FOREIGN):
            raise UnusableFileError(
                f'{path}: unknown key {key!r}{suggest(str(key), KEYS)}; known are '
                f'{", ".join(KEYS)}: correct or remove it'
            )
    root = _root(path, content.get('path'))
    splits = {
        # Roboflow calls it `val` in the file and `valid` on disk
        split: tuple(_find(path, root, split, entry) for entry in _entries(path, split, content))
        for split in SPLITS
        if content.get(split)
    }
    if 'train' not in splits:
        raise UnusableFileError(f'{path}: no key train: give the folder of the training images')
    names = _names(path, content.get('names', ()))
    if 'nc' in content and names and content['nc'] != len(names):
        count = content['nc']
        raise UnusableFileError(
            f'{path}: nc is {count!r:.40}, but names has {len(names)} entries: '
            + ('correct one of them' if isinstance(count, int) else f'write nc: {len(names)}')
        )
    task = content.get('task')
    return Description(
        path=path,
        root=root,
        splits=splits,
        names=names,
        # ultralytics' words for kinds of labels, not for the tasks of mtp
        task=None if task in ('detect', 'obb', 'segment', 'classify') else task,
        label_values=_mapping(path, content.get('label_values') or {}),
        bands=_numbers(path, 'bands', content, int),
        mean=_numbers(path, 'mean', content, float),
        std=_numbers(path, 'std', content, float),
        nodata=_number(path, 'nodata', content),
        gsd=_number(path, 'gsd', content),
        stretch=_stretch(path, content.get('stretch') or ()),
        stretched={
            str(name): _limits(path, limits)
            for name, limits in (content.get('stretched') or {}).items()
        },
    )


def read_names(path: Path) -> tuple[str, ...]:
    """Return the class names in a ``data.yaml``, by label; empty if it has none.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: it is no yaml, or ``names`` is of another kind.
    """
    return _names(path, _read_yaml(path).get('names', ()))


def write_description(path: Path, content: Mapping[str, Any]) -> None:
    """Write a ``data.yaml`` with keys of :data:`KEYS`, atomically."""
    assert set(content) <= set(KEYS)
    plain = {key: _plain(value) for key, value in content.items()}
    write_text(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """Return a value without tuples, which yaml does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _read_yaml(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f'no {path}: give a data.yaml, or make one with `mtp data import`')
    try:
        content = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise UnusableFileError(f'{path} is no yaml: {error}') from error
    if not isinstance(content, dict):
        raise UnusableFileError(f'{path} has no keys such as {", ".join(KEYS[:5])}')
    for key in POSE:
        if key in content:
            raise UnusableFileError(
                f'{path}: {key} says that the labels are poses, and keypoints are not read: keep '
                'the first five columns of each line of the label files, the class and the box, '
                f'and remove {" and ".join(key for key in POSE if key in content)}'
            )
    return content


def _root(path: Path, given: object) -> Path:
    """Return the root of the data: ultralytics looks in its own folder too, mtp beside the file."""
    if given is not None and not isinstance(given, str):
        raise UnusableFileError(f'{path}: path is {given!r:.60}: give the folder of the data')
    root = path.parent / (given or '.')
    if given and not root.is_dir():
        raise FileNotFoundError(
            f'{path}: path is {given!r}, and there is no folder {root}: correct it, or remove the '
            'key if the data lie beside this file'
        )
    return root


def _entries(path: Path, split: str, content: dict) -> list[str]:
    entry = content[split]
    entries = entry if isinstance(entry, list) else [entry]
    if not all(isinstance(each, str) for each in entries):
        raise UnusableFileError(
            f'{path}: {split} is {entry!r:.60}: give a folder, or a list of them'
        )
    return entries


def _find(path: Path, root: Path, split: str, entry: str) -> Path:
    # Roboflow writes ../train/images for the folder train/images beside the file
    for found in (root / entry, root / entry.removeprefix('../')):
        if found.exists():
            return found
    raise FileNotFoundError(f'{path}: {split} is {entry!r}, but there is no {root / entry}')


def _names(path: Path, names: object) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise UnusableFileError(
                f'{path}: the keys of names are {list(names)[:8]}, not the numbers from 0 on: '
                'give each class its label'
            )
        names = [names[label] for label in range(len(names))]
    if not names:
        return ()
    if isinstance(names, Sequence) and not isinstance(names, str):
        for name in names:
            if not isinstance(name, str | int | float) or isinstance(name, bool):
                raise UnusableFileError(
                    f'{path}: names has {name!r:.60}, which is no text: yaml reads words such as '
                    'yes, no, on, off, true, null and dates so. Write each name in quotes'
                )
        names = tuple(str(name) for name in names)  # yaml reads a class called 747 as a number
    try:
        return check_classes(names)
    except ValueError as error:
        raise UnusableFileError(f'{path}: names: {error}') from error


def _mapping(path: Path, values: object) -> dict[int | str, str]:
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values.values()):
        raise UnusableFileError(
            f'{path}: label_values is {values!r:.60}: give a class name for each value, e.g. '
            "{1: ground, 2: building} or {'#ffffff': road}"
        )
    return values


def _numbers(path: Path, key: str, content: dict, kind: type) -> tuple:
    values = content.get(key) or ()
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        for value in values
    ):
        raise UnusableFileError(f'{path}: {key} is {values!r:.60}: give a list of numbers')
    return tuple(kind(value) for value in values)


def _stretch(path: Path, value: object) -> tuple[tuple[float, float], ...] | str:
    return value if isinstance(value, str) else _limits(path, value)


def _limits(path: Path, value: object) -> tuple[tuple[float, float], ...]:
    try:
        return tuple((float(low), float(high)) for low, high in value)  # type: ignore[attr-defined]  # checked here
    except (TypeError, ValueError):
        raise UnusableFileError(
            f'{path}: stretch is {value!r:.60}: give MIN,MAX or p2,p98, or a pair of numbers for '
            'each band'
        ) from None


def _number(path: Path, key: str, content: dict) -> float | None:
    value = content.get(key)
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise UnusableFileError(f'{path}: {key} is {value!r:.60}: give a number')
    return None if value is None else float(value)
