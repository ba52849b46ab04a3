"""What there is to predict: files, folders and lists, and pairs of dates."""

from collections.abc import Sequence
from pathlib import Path

from mtp.data.image_files import is_image
from mtp.data.label_files import read_lines
from mtp.files import UnusableFileError

Job = tuple[Path, ...]  # an image, or the two dates of a pair
FURTHER = ('.vrt', '.jp2', '.img')  # suffixes of scenes beside those of images


def find_inputs(given: Sequence[Path], pairs: bool) -> list[Job]:
    """Return the images, or pairs, of files, folders and lists, in their order.

    Args:
        given: images; folders of images; ``.txt`` files with a path in each line. Of pairs: two
            files or two folders with equal names, or one folder with ``A/`` and ``B/``.
        pairs: whether the model compares two dates.

    Raises:
        FileNotFoundError: a file or folder is missing.
        UnusableFileError: a folder holds no images, the names of two folders differ, or two inputs
            have one name, by which their results are called.
    """
    jobs = _pairs(given) if pairs else [(path,) for each in given for path in _files(each)]
    of_name: dict[str, Path] = {}
    for path, *_ in jobs:
        if of_name.setdefault(path.stem, path) != path:
            raise UnusableFileError(
                f'{of_name[path.stem]} and {path} have one name, by which results are called: '
                'predict them into two folders, or rename one'
            )
    return list(dict.fromkeys(jobs))  # one that is named twice is predicted once


def _pairs(given: Sequence[Path]) -> list[Job]:
    if len(given) == 1 and (given[0] / 'A').is_dir() and (given[0] / 'B').is_dir():
        given = [given[0] / 'A', given[0] / 'B']
    if len(given) != 2:
        raise UnusableFileError(
            'the model compares two dates: give BEFORE AFTER, two files or two folders with equal '
            'names, or one folder that holds A/ and B/'
        )
    before, after = given
    if before.is_file() and after.is_file():
        return [(before, after)]
    dates = [{path.stem: path for path in _files(folder)} for folder in (before, after)]
    alone = sorted(set(dates[0]) ^ set(dates[1]))
    if alone:
        raise UnusableFileError(
            f'{before} and {after} differ in {len(alone):,} names, such as {alone[0]}: pairs have '
            'equal names'
        )
    return [(path, dates[1][stem]) for stem, path in dates[0].items()]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if _is_scene(each))
        if not found:
            raise UnusableFileError(f'no images in {path}')
        return found
    if path.suffix == '.txt':
        names = [line.strip() for _, line in read_lines(path)]
        return [_beside(path, name) for name in names if name]
    if not path.exists():
        raise FileNotFoundError(f'no file {path}')
    return [path]


def _beside(listed: Path, name: str) -> Path:
    """Return a path of a list: as it stands, or from the list's folder."""
    path = Path(name)
    return path if path.exists() else listed.parent / path


def _is_scene(path: Path) -> bool:
    return path.is_file() and (is_image(path.name) or path.suffix.lower() in FURTHER)
