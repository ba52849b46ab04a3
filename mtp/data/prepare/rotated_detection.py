"""Rotated detection: labelled images of a publisher's folders -> tiles."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mtp.data.decoding import read_size
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.box_files import Box, checked, read_dota
from mtp.data.prepare.images import images_in
from mtp.data.prepare.tiling import Tiling, cut

RATES = (0.5, 1.0, 1.5)  # of several scales
# Whether at several scales -> how images of DOTA are cut: as mmrotate cuts them.
DOTA_TILINGS = {False: Tiling(1024, 200), True: Tiling(1024, 500, RATES)}
# Compared with an image of 1000 pixels that is only copied.
TILING_COST = 20


@dataclass(frozen=True)
class Source:
    """An image to cut.

    Attributes:
        image: file.
        label: file; None for images without labels.
        name: of the image, in the names of its tiles.
    """

    image: Path
    label: Path | None
    name: str


def prepare_dota(
    classes: Sequence[str],
    labels: tuple[str, ...],
    tests: tuple[str, ...],
    src: Path,
    dst: Path,
    multi_scale: bool,
) -> Report:
    """Cut a version of DOTA: ``train`` and ``val`` -> ``trainval``, ``test`` -> ``test``.

    Args:
        classes: names of the version's classes.
        labels: names that the folder of the labels may have.
        tests: names that the folder of the test images may have.
        src: folder of the publisher's files.
        dst: folder to write to.
        multi_scale: whether to cut at three scales.

    Raises:
        FileNotFoundError: a folder is missing.
    """
    report = Report()
    sources = [
        source
        for split in ('train', 'val')
        for source in find_sources(
            folder(src, f'{split}/images'), folder(folder(src, split), *labels), '.txt', '', report
        )
    ]
    tiling = DOTA_TILINGS[multi_scale]
    cut_sources(sources, read_dota, classes, tiling, dst / 'trainval', report)
    sources = find_sources(folder(folder(src, *tests), 'images'), None, '', '', report)
    cut_sources(sources, read_dota, classes, tiling, dst / 'test', report)
    return report


def find_sources(
    images: Path,
    labels: Path | None,
    suffix: str,
    prefix: str,
    report: Report,
) -> Iterator[Source]:
    """Find images with their labels; note images without one, and labels without an image.

    Args:
        images: folder of the images.
        labels: folder of the labels; None for images without labels.
        suffix: suffix of the label files.
        prefix: what the names of the images with labels begin with in the names of their tiles.
        report: gets a line for each that lacks the other.
    """
    found = images_in(images, report)
    if labels is None:
        yield from (Source(path, None, stem) for stem, path in found.items())
        return
    texts = {path.stem: path for path in labels.glob(f'*{suffix}') if path.name[0] != '.'}
    report.bad += [
        f'{texts[stem]}: no image of this name in {images}'
        for stem in sorted(set(texts) - set(found))
    ]
    for stem, path in found.items():
        if stem in texts:
            yield Source(path, texts[stem], prefix + stem)
        else:
            report.bad.append(f'{path}: no label {labels / stem}{suffix}')


def cut_sources(
    sources: Iterator[Source],
    read: Callable[[Path], Iterator[Box]],
    classes: Sequence[str],
    tiling: Tiling,
    dst: Path,
    report: Report,
) -> None:
    """Cut images into tiles, on all cores.

    Args:
        sources: images with or without labels.
        read: function that reads the boxes of a label file.
        classes: names that boxes may have.
        tiling: how to cut.
        dst: folder of the split to write to.
        report: gets the counts, and a line for each image that cannot be used.
    """
    unique: dict[str, Source] = {}
    for source in sources:
        if source.name in unique:
            report.bad.append(f'{source.image}: {unique[source.name].image} has the same name')
        else:
            unique[source.name] = source
    total = Counter()
    for count in process(
        partial(_cut_source, read, classes, tiling, dst),
        list(unique.values()),
        f'{dst.name} images',
        report,
        _image,
        TILING_COST,
    ):
        total += count
    for key, value in total.items():
        if key in ('tiles', 'objects'):
            report.made[f'{dst.name} {key}'] = value
        else:
            report.left_out[key] += value


def _cut_source(
    read: Callable[[Path], Iterator[Box]],
    classes: Sequence[str],
    tiling: Tiling,
    dst: Path,
    source: Source,
) -> Counter:
    boxes = None
    if source.label:
        boxes = checked(read(source.label), classes, read_size(source.image))
    return cut(tiling, source.image, source.name, boxes, dst)


def _image(source: Source) -> Path:
    return source.image
