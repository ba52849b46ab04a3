"""Image files and splits, shared by the preparations of several tasks."""

import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from mtp.data.decoding import check_unturned, read_stored
from mtp.data.image_files import SUFFIXES
from mtp.data.label_files import read_lines
from mtp.data.prepare.base import Report
from mtp.files import whole

SEED = 0


def read_rgb(path: Path) -> np.ndarray:
    """Read an image as stored: uint8 ``(H, W, 3)`` RGB; a grey one gets three equal channels.

    Raises:
        ValueError: the file is not an image, or not of 8 bits.
    """
    pixels = read_stored(path)
    if pixels.dtype != np.uint8:
        raise ValueError(f'{path} holds {pixels.dtype}: an RGB image of 8 bits is expected')
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 ``(H, W)`` or ``(H, W, 3)`` RGB atomically."""
    encoded = cv2.imencode('.png', pixels if pixels.ndim == 2 else pixels[..., ::-1])[1]
    with whole(path) as unfinished:
        encoded.tofile(unfinished)


def copy_image(item: tuple[Path, Path]) -> Path:
    """Copy an image if it can be decoded; keep an existing copy. Return the copy's path.

    Raises:
        ValueError: the file is not an image, is truncated, or would be rotated by training.
    """
    source, target = item
    if not target.is_file():
        read_stored(source)
        check_unturned(source)
        with whole(target) as unfinished:
            shutil.copyfile(source, unfinished)
    return target


def images_in(where: Path, report: Report) -> dict[str, Path]:
    """Return the images of a folder, stem -> path, in the order of their names.

    Other files, and a folder without images, are reported in ``report.bad``.
    """
    images: dict[str, Path] = {}
    for path in sorted(where.iterdir()):
        if path.name.startswith('.'):
            continue
        if path.suffix.lower() not in SUFFIXES:
            report.bad.append(f'{path}: no image ({", ".join(SUFFIXES)}) by its name')
        elif path.stem in images:
            report.bad.append(f'{path}: {images[path.stem].name} has the same name')
        else:
            images[path.stem] = path
    if not images:
        report.bad.append(f'{where}: no images')
    return images


def deal(names: Iterable[str], shares: Mapping[str, float]) -> dict[str, str]:
    """Divide names at random, reproducibly: name -> split.

    Args:
        names: names to divide; their order does not matter.
        shares: split -> share of the names; the shares add up to 1.
    """
    names = sorted(names)
    random.Random(SEED).shuffle(names)
    splits, start, total = {}, 0, 0.0
    for split, share in shares.items():
        total += share
        end = round(total * len(names))
        splits.update(dict.fromkeys(names[start:end], split))
        start = end
    return splits


def read_lists(paths: Mapping[str, Path]) -> Iterator[tuple[str, str, str]]:
    """Yield the lines of split lists as ``(split, place, line)``; ``place`` is file and line.

    Raises:
        FileNotFoundError: a list is missing.
    """
    for split, path in paths.items():
        if not path.is_file():
            raise FileNotFoundError(
                f'no list {path}, but one of another split exists: add '
                'it, or remove the others to have the images divided'
            )
        for place, line in read_lines(path):
            if line.strip():
                yield split, place, line.strip()


def by_lists(paths: Mapping[str, Path], known: Iterable[str], report: Report) -> dict[str, str]:
    """Return name -> split, from lists with one file name per line.

    Folders and suffixes of the file names are ignored. Lines that name an unknown or repeated
    image, and images in no list, are reported in ``report.bad``.
    """
    known = set(known)
    splits: dict[str, str] = {}
    for split, place, line in read_lists(paths):
        name = Path(line.split()[0]).stem
        if name not in known:
            report.bad.append(f'{place}: no image {line!r}')
        elif name in splits:
            report.bad.append(f'{place}: {line!r} was listed before, for {splits[name]}')
        else:
            splits[name] = split
    report.bad += [
        f'{name}: in none of {", ".join(str(path) for path in paths.values())}'
        for name in sorted(known - set(splits))
    ]
    return splits
