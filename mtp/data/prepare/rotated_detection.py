"""Preparation of rotated detection: labelled images in the publisher's folders -> tiles."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mtp.data.class_names import ClassNames
from mtp.data.decoding import read_size
from mtp.data.formats import Box, usable
from mtp.data.formats.dota_text import read_dota
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.images import images_in
from mtp.data.prepare.tiling import Tiling, cut
from mtp.data.tally import Tally

RATES = (0.5, 1.0, 1.5)  # resize rates for several scales
# `multi_scale` -> tiling of DOTA, the same as in mmrotate.
DOTA_TILINGS = {False: Tiling(1024, 200), True: Tiling(1024, 500, RATES)}
# Cost of cutting an image, relative to copying one of 1000 x 1000 pixels.
TILING_COST = 20


@dataclass(frozen=True)
class Source:
    """An image to cut.

    Attributes:
        image: file of the image.
        label: file of its labels; None for images without labels.
        name: name of the image in the names of its tiles.
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
    unlabelled = find_sources(folder(folder(src, *tests), 'images'), None, '', '', report)
    cut_sources(unlabelled, read_dota, classes, tiling, dst / 'test', report)
    return report


def find_sources(
    images: Path,
    labels: Path | None,
    suffix: str,
    prefix: str,
    report: Report,
) -> Iterator[Source]:
    """Yield images with their labels; report images without labels, and labels without images.

    Args:
        images: folder of the images.
        labels: folder of the labels; None for images without labels.
        suffix: suffix of the label files.
        prefix: prefix of the names of labelled images in the names of their tiles.
        report: gets a line for each image or label without its counterpart.
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
    sources: Iterable[Source],
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
        classes: names of the known classes.
        tiling: sizes and places of the tiles.
        dst: folder of the split to write to.
        report: gets the counts, and a line for each image that cannot be used.
    """
    unique: dict[str, Source] = {}
    for source in sources:
        if source.name in unique:
            report.bad.append(f'{source.image}: {unique[source.name].image} has the same name')
        else:
            unique[source.name] = source
    total: Counter[str] = Counter()
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
    if source.label is None:
        return cut(tiling, source.image, source.name, None, dst)
    tally = Tally()
    size, names = read_size(source.image), ClassNames(classes, tally)
    boxes = [box for box, _ in usable(read(source.label), names, size, True, tally)]
    return cut(tiling, source.image, source.name, boxes, dst) + tally.counts()


def _image(source: Source) -> Path:
    return source.image
