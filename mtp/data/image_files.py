"""Images in a folder, told from other files by their suffixes."""

from pathlib import Path

from mtp.files import MissingFileError, UnusableFileError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp')


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Return the images in a folder, stem -> path, in the order of their stems.

    Other files, such as world files, and hidden files are passed over.

    Raises:
        MissingFileError: the folder is missing.
        UnusableFileError: two images have one stem.
    """
    if not folder.is_dir():
        raise MissingFileError(f'no folder {folder}: it should hold images ({", ".join(SUFFIXES)})')
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith('.'):
            if path.stem in images:
                raise UnusableFileError(
                    f'{path}: {images[path.stem].name} has the same name, by which labels go: '
                    'rename or remove one of the two'
                )
            images[path.stem] = path
    return dict(sorted(images.items()))
