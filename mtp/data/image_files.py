"""Image files of a folder: what counts as an image, and images that belong together by name."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from mtp.data.tally import Tally
from mtp.files import MissingFileError, UnusableFileError
from mtp.spelling import compose

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp')
LOOKED_FOR = ', '.join(f'*{suffix}' for suffix in SUFFIXES)


def is_image(name: str) -> bool:
    """Return whether a file is an image by its name; hidden files, such as ``._1.png``, are not."""
    return not is_hidden(name) and name.lower().endswith(SUFFIXES)


def is_hidden(name: str) -> bool:
    """Return whether notebooks, mtp or macOS keep something of their own under this name."""
    return name.startswith('.') or name == '__MACOSX'


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file of a name in a folder, however its accents are written; None without one."""
    for form in (name, *(unicodedata.normalize(kind, name) for kind in ('NFC', 'NFD'))):
        if (folder / form).is_file():
            return folder / form
    return None


def find_images(folder: Path, tally: Tally) -> list[Path]:
    """Return the images in a folder and in the folders below it, in the order of their paths.

    Args:
        folder: folder to look into.
        tally: counts of the reader; files that are no images, and hidden folders, are left out.
    """
    images = []
    for place, folders, files in _walk(folder):
        for name in filter(is_hidden, folders):
            tally.leave_out('hidden folders', f'{place}/{name}')
        for name in files:
            if is_image(name):
                images.append(Path(place, name))
            else:
                tally.leave_out('files that are no images', f'{place}/{name}')
    return sorted(images, key=str)


def holds_images(folder: Path) -> bool:
    """Return whether there is an image in a folder or in a folder below it."""
    return any(is_image(name) for _, _, files in _walk(folder) for name in files)


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk through the folders that are not hidden, in the order of their names."""
    for place, folders, files in os.walk(folder, followlinks=True):
        yield place, sorted(folders), sorted(files)
        folders[:] = sorted(name for name in folders if not is_hidden(name))


def match_images(folders: Sequence[Path], tally: Tally) -> list[tuple[Path, ...]]:
    """Return the images that have one name in all folders, apart from the suffix, sorted by it.

    Args:
        folders: folders whose files belong together, side by side.
        tally: counts of the reader, as in :func:`find_images`.

    Raises:
        FileNotFoundError: a folder is missing.
        UnusableFileError: there are no images, a name is missing in a folder, or two images in a
            folder have one name.
    """
    found = [_by_name(folder, tally) for folder in folders]
    names = sorted(set().union(*found))
    beside = ' and '.join(map(str, folders))
    if not names:
        raise UnusableFileError(f'no images in {beside}: looked for {LOOKED_FOR}')
    for folder, images in zip(folders, found):
        lost = [name for name in names if name not in images]
        if lost:
            shown = ', '.join(lost[:3]) + (', ...' if len(lost) > 3 else '')
            raise UnusableFileError(
                f'{folder} lacks {len(lost)} of {len(names)} images: {shown}. The same names, '
                f'apart from the suffix, must be in {beside}: add these files, or remove their '
                f'partners (looked for {LOOKED_FOR})'
            )
    return [tuple(images[name] for images in found) for name in names]


def _by_name(folder: Path, tally: Tally) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f'no folder {folder}: make it with `mtp data prepare`, or set data_root'
        )
    images: dict[str, Path] = {}
    for path in find_images(folder, tally):
        name = compose(path.relative_to(folder).with_suffix('').as_posix())
        if name in images:
            raise UnusableFileError(
                f'{images[name]} and {path} have one name: remove the one that is not meant'
            )
        images[name] = path
    return images


def images_by_stem(folder: Path, tally: Tally, labels: Sequence[str]) -> dict[str, Path]:
    """Return the images in a folder, stem -> path, in the order of their stems.

    Stems are as :func:`~mtp.spelling.compose` gives them.

    Args:
        folder: folder to look into.
        tally: counts of the reader; files that are neither images nor labels are left out.
        labels: suffixes of label files, which may be in the same folder.

    Raises:
        MissingFileError: the folder is missing.
        UnusableFileError: two images have one stem.
    """
    if not folder.is_dir():
        raise MissingFileError(f'no folder {folder}: it should hold images ({", ".join(SUFFIXES)})')
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path.name):
            stem = compose(path.stem)
            if stem in images:
                raise UnusableFileError(
                    f'{path}: {images[stem].name} has the same name, by which labels go: '
                    'rename or remove one of the two'
                )
            images[stem] = path
        elif path.is_file() and path.suffix.lower() not in labels:
            tally.leave_out('files that are no images', str(path))
    return dict(sorted(images.items()))
