"""Preparation of scene classification: one folder of images per class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtp.data.prepare.base import Report
from mtp.data.prepare.images import deal, images_in


def by_class(root: Path, classes: Sequence[str], report: Report) -> dict[str, Path]:
    """Find the images in the folders of the classes: stem -> image.

    Unknown and missing folders are reported in ``report.bad``.

    Raises:
        FileNotFoundError: there is no folder of any class.
    """
    there = {path.name for path in root.iterdir() if path.is_dir()}
    if not there & set(classes):
        raise FileNotFoundError(
            f'{root} has no folder of any class ({", ".join(classes[:3])}, '
            '...): unpack the archive there'
        )
    report.bad += [
        f'{root / name}: unknown class; known are {", ".join(classes)}'
        for name in sorted(there - set(classes))
    ]
    report.bad += [
        f'{root / name}: no folder of this class' for name in classes if name not in there
    ]
    images: dict[str, Path] = {}
    for name in classes:
        for stem, path in (images_in(root / name, report) if name in there else {}).items():
            if stem in images:
                report.bad.append(f'{path}: {images[stem]} has the same name')
            else:
                images[stem] = path
    return images


def stratified(images: Mapping[str, Path], shares: Mapping[str, float]) -> dict[str, str]:
    """Divide the images of each class at random, reproducibly: stem -> split."""
    classes: dict[str, list[str]] = {}
    for name, path in images.items():
        classes.setdefault(path.parent.name, []).append(name)
    splits: dict[str, str] = {}
    for names in classes.values():
        splits |= deal(names, shares)
    return splits
