"""Rotated detection: DIOR-R, and the tiles of FAIR1M and DOTA."""
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from mtp.data.facts.detection import DETECTION
from mtp.data.prepare.base import Report, folder, process
from mtp.data.prepare.box_files import Box, checked, oriented, read_dota, read_fair1m, read_xml
from mtp.data.prepare.horizontal_detection import check_size, dior_images
from mtp.data.prepare.images import copy_image, images_in, read_size
from mtp.data.prepare.tiling import Tiling, cut
from mtp.files import whole

RATES = (0.5, 1.0, 1.5)
# That of DOTA is mmrotate's. FAIR1M's overlap is not published; this is DOTA's, and half a tile.
TILINGS = {
    'dota': {False: Tiling(1024, 200), True: Tiling(1024, 500, RATES)},
    'fair1m': {False: Tiling(800, 200), True: Tiling(800, 400, RATES)},
}
# Compared with an image of 1000 pixels that is only copied.
TILING_COST = 20


def dior_r(src: Path, dst: Path) -> Report:
    """The owner's layout again: images that open, and xml without degenerate boxes.

    ``JPEGImages-{trainval,test}``, ``Annotations/Oriented Bounding Boxes``, ``ImageSets/Main``:
    mmrotate's ``DIORDataset`` reads it. Lists name the good images only.
    """
    report = Report()
    annotations = folder(src, 'Annotations/Oriented Bounding Boxes', 'Oriented Bounding Boxes')
    for split, images in dior_images(src, report).items():
        where = 'test' if split == 'test' else 'trainval'
        items = [(image, annotations / f'{image.stem}.xml',
                  dst / f'JPEGImages-{where}', dst / 'Annotations' / 'Oriented Bounding Boxes')
                 for image in images]
        stems = []
        for stem, count in process(_dior_r_image, items, f'{split} images', report, _first):
            stems.append(stem)
            report.made[f'{split} objects'] = report.made.get(f'{split} objects', 0) + count.pop(
                'objects')
            report.left_out += count
        with whole(dst / 'ImageSets' / 'Main' / f'{split}.txt') as unfinished:
            unfinished.write_text(''.join(f'{stem}\n' for stem in stems))
    return report


def _dior_r_image(item: tuple[Path, Path, Path, Path]) -> tuple[str, Counter]:
    image, annotations, images_dst, annotations_dst = item
    root, objects = read_xml(annotations)
    shape = check_size(image, annotations, root)
    boxes = checked(oriented(objects), DETECTION['dior_r'].classes, shape)
    for (_, element), box in zip(objects, boxes):
        if box.degenerate:
            root.remove(element)
    copy_image((image, images_dst / f'{image.stem}.jpg'))
    target = annotations_dst / annotations.name
    if not target.is_file():
        with whole(target) as unfinished:
            ElementTree.ElementTree(root).write(unfinished, encoding='utf-8', xml_declaration=True)
    degenerate = sum(box.degenerate for box in boxes)
    return image.stem, Counter({'objects': len(boxes) - degenerate,
                                'objects with two equal corners': degenerate})


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


def fair1m(src: Path, dst: Path, multi_scale: bool = False) -> Report:
    """``train`` and ``validation`` -> ``trainval``, ``test`` -> ``test``.

    Owner's xml becomes DOTA's text. Images of train and validation have the same names: those of
    their tiles begin with ``train_`` and ``val_``.
    """
    report = Report()
    train = src / 'train'
    parts = [part for part in sorted(train.glob('part*')) if part.is_dir()] or [train]
    sources = [source for part in parts for source in _sources(
        folder(part, 'images'), folder(part, 'labelXml'), '.xml', 'train_', report)]
    sources += _sources(folder(src, 'validation/images'), folder(src, 'validation/labelXml'),
                        '.xml', 'val_', report)
    _tile(sources, read_fair1m, 'fair1m', TILINGS['fair1m'][multi_scale], dst / 'trainval', report)
    _tile(_sources(folder(src, 'test/images'), None, '', '', report), read_fair1m, 'fair1m',
          TILINGS['fair1m'][multi_scale], dst / 'test', report)
    return report


def dota(name: str, labels: tuple[str, ...], tests: tuple[str, ...], src: Path, dst: Path,
         multi_scale: bool = False) -> Report:
    """``train`` and ``val`` -> ``trainval``, ``test`` -> ``test``.

    Args:
        name: of the data set.
        labels: names that the folder of labels may have.
        tests: names that the folder of the test images may have.
        src: owner's files.
        dst: to write to.
        multi_scale: as in the published run of V1.0.
    """
    report = Report()
    sources = [source for split in ('train', 'val') for source in _sources(
        folder(src, f'{split}/images'), folder(folder(src, split), *labels), '.txt', '', report)]
    tiling = TILINGS['dota'][multi_scale]
    _tile(sources, read_dota, name, tiling, dst / 'trainval', report)
    _tile(_sources(folder(folder(src, *tests), 'images'), None, '', '', report), read_dota, name,
          tiling, dst / 'test', report)
    return report


def _sources(images: Path, labels: Path | None, suffix: str, prefix: str, report: Report,
             ) -> Iterator[Source]:
    """Images with their labels; those without, and labels without an image, are noted."""
    found = images_in(images, report)
    if labels is None:
        yield from (Source(path, None, stem) for stem, path in found.items())
        return
    texts = {path.stem: path for path in labels.glob(f'*{suffix}') if path.name[0] != '.'}
    report.bad += [f'{texts[stem]}: no image of this name in {images}'
                   for stem in sorted(set(texts) - set(found))]
    for stem, path in found.items():
        if stem in texts:
            yield Source(path, texts[stem], prefix + stem)
        else:
            report.bad.append(f'{path}: no label {labels / stem}{suffix}')


def _tile(sources: Iterator[Source], read: Callable[[Path], Iterator[Box]], dataset: str,
          tiling: Tiling, dst: Path, report: Report) -> None:
    unique: dict[str, Source] = {}
    for source in sources:
        if source.name in unique:
            report.bad.append(f'{source.image}: {unique[source.name].image} has the same name')
        else:
            unique[source.name] = source
    total = Counter()
    for count in process(partial(_tile_image, read, dataset, tiling, dst), list(unique.values()),
                         f'{dst.name} images', report, _image, TILING_COST):
        total += count
    for key, value in total.items():
        if key in ('tiles', 'objects'):
            report.made[f'{dst.name} {key}'] = value
        else:
            report.left_out[key] += value


def _tile_image(read: Callable[[Path], Iterator[Box]], dataset: str, tiling: Tiling, dst: Path,
                source: Source) -> Counter:
    boxes = None
    if source.label:
        boxes = checked(read(source.label), DETECTION[dataset].classes, read_size(source.image))
    return cut(tiling, source.image, source.name, boxes, dst)


def _image(source: Source) -> Path:
    return source.image


def _first(item: tuple) -> Path:
    return item[0]


PREPARE = {
    'dior_r': dior_r,
    'fair1m': fair1m,
    'dota_v1': partial(dota, 'dota_v1', ('labelTxt-v1.0', 'labelTxt'), ('test',)),
    'dota_v2': partial(dota, 'dota_v2', ('labelTxt-v2.0', 'labelTxt'), ('test-dev', 'test')),
}
TILED = ('fair1m', 'dota_v1', 'dota_v2')  # these take `multi_scale`
