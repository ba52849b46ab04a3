"""Import of a folder in any form into one layout, with a ``data.yaml``."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mtp.data.decoding import read_image, read_map
from mtp.data.description import write_description
from mtp.data.own.samples import Data, LabelledObject, Sample
from mtp.data.own.splitting import blocks, counted, divide, scene_of
from mtp.data.prepare.base import Report, process
from mtp.data.prepare.coco_files import Entry, coco_box, coco_image, write_coco
from mtp.data.prepare.images import write_png
from mtp.data.prepare.tiling import MIN_OBJECT, PADDING, Tiling, shares
from mtp.data.run_lengths import decode_mask
from mtp.data.samrs.from_coco import coco_to_samrs
from mtp.data.samrs.to_coco import assemble, mask_entries, rectangle
from mtp.files import whole, write_json, write_text

IGNORED = 255  # value of label maps that is not counted
# What a folder holds -> task that it is imported for.
TASKS = {
    'classes': 'classification',
    'maps': 'segmentation',
    'pairs': 'change_detection',
    'rotated': 'rotated_detection',
    'horizontal': 'horizontal_detection',
    'masks': 'pretraining',
}

CUT = 'parts of objects that a tile cuts'


@dataclass(frozen=True)
class Options:
    """Options of an import.

    Attributes:
        train: share of the images for training, where the data are not divided, 0 to 1.
        group: regular expression for the scene in the name of an image; None for its name up to
            ``__``.
        tile: side of the tiles in pixels; None to leave images whole.
        overlap: overlap of neighbouring tiles in pixels.
        seed: seed of the division.
        as_rotated: whether horizontal boxes become rotated ones.
        kind: what to import objects with masks for, ``'horizontal'`` or ``'rotated'``; None for all
            that they are for.
    """

    train: float = 0.8
    group: str | None = None
    tile: int | None = None
    overlap: int = 0
    seed: int = 0
    as_rotated: bool = False
    kind: str | None = None


@dataclass(frozen=True)
class Piece:
    """Image, or tile of an image, to write.

    Attributes:
        sample: the image with its labels.
        split: split that it goes into.
        name: name of the file to write, with suffix.
        window: left, top and side of the tile in pixels; None for the whole image.
    """

    sample: Sample
    split: str
    name: str
    window: tuple[int, int, int] | None = None


def kind_of(data: Data, as_rotated: bool = False) -> str:
    """Return what a folder holds: a key of :data:`TASKS`."""
    if data.found.form in ('classes', 'maps', 'pairs'):
        return data.found.form
    if data.rotated or as_rotated:
        return 'rotated'
    return 'masks' if data.masked else 'horizontal'


def import_data(data: Data, dst: Path, options: Options) -> Report:
    """Write data into one layout below a folder; its ``data.yaml`` is written last.

    Images are linked where the file system allows it, else copied. What exists already from an
    interrupted import is kept.

    Args:
        data: what to import.
        dst: folder to write.
        options: division and tiles.

    Returns:
        Report: counts, what was left out, and what could not be used.

    Raises:
        FileExistsError: ``dst`` holds a finished import.
        ValueError: the data cannot be divided or cut as the options say.
    """
    if (dst / 'data.yaml').exists():
        raise FileExistsError(f'{dst} holds a finished import: remove it or choose another folder')
    kind = options.kind or kind_of(data, options.as_rotated)
    if options.tile is not None and kind == 'classes':
        raise ValueError('--tile: an image with one class for all of it is not cut')
    report = Report(bad=list(data.faults))
    report.left_out.update({reason: len(places) for reason, places in data.tally.left_out.items()})
    pieces = list(_pieces(data, options, report))
    if kind == 'masks':
        splits = _write_masks(data, pieces, dst, report)
    else:
        splits = _WRITERS[kind](data, pieces, dst, report)
    _describe(data, dst, TASKS[kind], splits)
    return report


def _pieces(data: Data, options: Options, report: Report) -> Iterator[Piece]:
    """Yield the images or tiles of each split; names are unique within a split."""
    splits = _splits(data, options, report)
    tiling = options.tile and Tiling(options.tile, options.overlap)
    taken: set[tuple[str, str]] = set()
    for sample, split in zip(data.samples, splits):
        name = sample.image.name
        if (split, Path(name).stem) in taken and sample.label is None:
            name = f'{sample.image.parent.name}_{name}'
        taken.add((split, Path(name).stem))
        if not tiling:
            yield Piece(sample, split, name)
            continue
        windows = [(int(x), int(y), int(side)) for x, y, side in tiling.windows(*sample.size)]
        parts: Sequence[str | None] = [split] * len(windows)
        if split == '':  # one scene for both
            axis = int(np.argmax(sample.size[::-1]))
            parts = blocks(
                max(sample.size), [(w[axis], w[axis] + w[2]) for w in windows], options.train
            )
        for window, part in zip(windows, parts):
            if part is None:
                report.left_out['tiles between the blocks of training and validation'] += 1
                continue
            x, y, side = window
            yield Piece(sample, part, f'{Path(name).stem}__{side}__{x}___{y}.png', window)


def _splits(data: Data, options: Options, report: Report) -> list[str]:
    """Return the split of each image; ``''`` for a scene that is divided into blocks."""
    given = {sample.split for sample in data.samples}
    if 'val' in given and None not in given:
        return [sample.split or '' for sample in data.samples]
    scene = scene_of(options.group)
    chosen = [i for i, sample in enumerate(data.samples) if sample.split in (None, 'train')]
    pairs = [(scene(data.samples[i].image), _names(data, data.samples[i])) for i in chosen]
    counts, sizes = counted(pairs)
    if len(chosen) == 1 and options.tile:
        parts = {pairs[0][0]: ''}
    else:
        parts = divide(counts, sizes, options.train, options.seed)
    report.made['scenes'] = len(sizes)
    splits = [sample.split or '' for sample in data.samples]
    for i, (name, _) in zip(chosen, pairs):
        splits[i] = parts[name]
    return splits


def _names(data: Data, sample: Sample) -> list[str]:
    labels = [each.label for each in sample.objects]
    labels += [] if sample.label is None else [sample.label]
    return [data.classes[label] for label in labels]


def _write_classes(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    items = [
        (piece, (dst / piece.split / data.classes[piece.sample.label or 0] / piece.name,))
        for piece in pieces
    ]
    return _write_all(items, report, {split: split for split in _found(pieces)})


def _write_maps(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    items = []
    for piece in pieces:
        label = Path(piece.name).with_suffix(_suffix(piece, piece.sample.map))
        root = dst / piece.split
        items.append((piece, (root / 'images' / piece.name, root / 'labels' / label)))
    return _write_all(items, report, {split: f'{split}/images' for split in _found(pieces)})


def _write_pairs(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    items = []
    for piece in pieces:
        stem, root = Path(piece.name), dst / piece.split
        files = [root / 'A' / piece.name]
        for folder, source in (('label', piece.sample.map), ('B', piece.sample.later)):
            files.append(root / folder / stem.with_suffix(_suffix(piece, source)))
        items.append((piece, tuple(files)))
    return _write_all(items, report, {split: split for split in _found(pieces)})


def _write_rotated(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    items = [(piece, (dst / piece.split / 'images' / piece.name,)) for piece in pieces]
    splits = _write_all(items, report, {split: f'{split}/images' for split in _found(pieces)})
    for piece in pieces:
        target = dst / piece.split / 'labels' / f'{Path(piece.name).stem}.txt'
        lines = ''
        for each, corners in _inside(_rotated(piece, report), report):
            values = ' '.join(f'{value:.10g}' for value in corners.reshape(-1))
            lines += f'{values} {data.classes[each.label]} {each.box.difficulty}\n'
            _count(report, piece.split)
        write_text(target, lines)
    return splits


def _rotated(piece: Piece, report: Report) -> Piece:
    """Return a piece whose objects with a mask have the rectangle around it as their box."""
    if not any(each.mask for each in piece.sample.objects):
        return piece
    objects = []
    for each in piece.sample.objects:
        if each.rotated is not None:
            objects.append(replace(each, box=replace(each.box, corners=each.rotated)))
            continue
        try:
            mask = decode_mask(each.mask, *piece.sample.size)
        except ValueError as error:
            report.bad.append(f'{each.box.place}: the mask cannot be read: {error}')
            continue
        if mask.any():
            objects.append(replace(each, box=replace(each.box, corners=rectangle(mask))))
        else:
            report.left_out['objects with an empty mask'] += 1
    return replace(piece, sample=replace(piece.sample, objects=tuple(objects)))


def _write_horizontal(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    items = [(piece, (dst / piece.split / 'images' / piece.name,)) for piece in pieces]
    splits = _write_all(items, report, {split: f'{split}/images' for split in _found(pieces)})
    for split in splits:
        entries: list[Entry] = []
        for piece in (piece for piece in pieces if piece.split == split):
            boxes = []
            for each, corners in _inside(piece, report):
                (x1, y1), (x2, y2) = corners.min(0), corners.max(0)
                boxes.append(coco_box(each.label, x1, y1, x2, y2) | dict(iscrowd=int(each.crowd)))
            entries.append(coco_image(piece.name, _size(piece), boxes))
        write_coco(dst / f'{split}.json', entries, data.classes, split, report)
    return splits


def _write_masks(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    """Write the layout of SAMRS: semantic maps, masks and rotated boxes."""
    staging = dst.with_name(f'.{dst.name}.pieces')
    entries, valid = [], set()
    for piece in pieces:
        if piece.split == 'test':
            report.left_out['images of the test split, which pretraining does not have'] += 1
            continue
        _write((piece, (staging / piece.name,)))
        objects = []
        for each, mask in _masks(piece, report):
            entry = mask_entries(coco_mask.encode(np.asfortranarray(mask)))
            objects.append(dict(category_id=each.label, iscrowd=int(each.crowd), **entry))
        entries.append(coco_image(piece.name, _size(piece), objects))
        if piece.split == 'val':
            valid.add(piece.name)
    annotations = staging.with_name(f'.{dst.name}.json')
    write_json(annotations, assemble(entries, data.classes))
    made = coco_to_samrs(annotations, staging, dst, valid=valid)
    annotations.unlink()
    shutil.rmtree(staging)
    for split, count in made.images.items():
        report.made[f'{split} images'] = count
        report.made[f'{split} objects'] = sum(made.objects[split].values())
    report.bad += made.bad
    return dict(train='trainval/images', val='trainval/images')


_WRITERS = dict(
    classes=_write_classes,
    maps=_write_maps,
    pairs=_write_pairs,
    rotated=_write_rotated,
    horizontal=_write_horizontal,
)


def _found(pieces: Sequence[Piece]) -> list[str]:
    return [split for split in ('train', 'val', 'test') if any(p.split == split for p in pieces)]


def _suffix(piece: Piece, source: Path | None) -> str:
    return '.png' if piece.window else source.suffix if source else ''


Item = tuple[Piece, tuple[Path, ...]]  # and its files: image, label map, later date


def _write_all(items: Sequence[Item], report: Report, splits: dict[str, str]) -> dict[str, str]:
    for split in splits:
        chosen = [item for item in items if item[0].split == split]
        process(_write, chosen, f'{split} images', report, _image)
    return splits


def _image(item: Item) -> Path:
    return item[0].sample.image


def _write(item: Item) -> None:
    """Write the files of a piece: links of whole images, or tiles."""
    piece, targets = item
    sources = (piece.sample.image, piece.sample.map, piece.sample.later)
    for number, (source, target) in enumerate(zip(sources, targets)):
        if source is None or target.exists():
            continue
        if piece.window is None:
            _link(source, target)
        else:
            is_map = number == 1
            pixels = read_map(source) if is_map else read_image(source)
            fill = IGNORED if is_map else PADDING
            write_png(target, _crop(pixels, piece.window, fill))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        with whole(target) as unfinished:
            shutil.copyfile(source, unfinished)


def _crop(pixels: np.ndarray, window: tuple[int, int, int], fill: int | tuple) -> np.ndarray:
    x, y, side = window
    part = pixels[y : y + side, x : x + side]
    missing = side - part.shape[0], side - part.shape[1]
    if not any(missing):
        return part
    return cv2.copyMakeBorder(part, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=fill)


def _size(piece: Piece) -> tuple[int, int]:
    return piece.sample.size if piece.window is None else (piece.window[2],) * 2


def _inside(piece: Piece, report: Report) -> Iterator[tuple[LabelledObject, np.ndarray]]:
    """Yield the objects that a piece holds, with their corners in its pixels."""
    objects = piece.sample.objects
    if piece.window is None:
        yield from ((each, each.box.corners) for each in objects)
        return
    corners = np.array([each.box.corners for each in objects]).reshape(-1, 4, 2)
    held = shares(corners, np.array([piece.window]))[:, 0]
    for each, share in zip(objects, held):
        if share >= MIN_OBJECT:
            yield each, each.box.corners - piece.window[:2]
        elif share > 0:
            report.left_out[CUT] += 1


def _masks(piece: Piece, report: Report) -> Iterator[tuple[LabelledObject, np.ndarray]]:
    """Yield the objects that a piece holds, with their masks, uint8 ``(H, W)``, in its pixels."""
    for each in piece.sample.objects:
        try:
            mask = decode_mask(each.mask, *piece.sample.size)
        except ValueError as error:
            report.bad.append(f'{each.box.place}: the mask cannot be read: {error}')
            continue
        if piece.window is not None:
            area = int(mask.sum())
            mask = _crop(mask, piece.window, 0)
            if mask.sum() < MIN_OBJECT * area:
                report.left_out[CUT] += 1
                continue
        if mask.any():
            yield each, mask
        else:
            report.left_out['objects with an empty mask'] += 1


def _count(report: Report, split: str) -> None:
    report.made[f'{split} objects'] = report.made.get(f'{split} objects', 0) + 1


def _describe(data: Data, dst: Path, task: str, splits: dict[str, str]) -> None:
    content: dict = dict(path='.', **splits)
    if data.classes:
        content['names'] = list(data.classes)
    content['task'] = task
    given = data.found.description
    if given:
        for key in ('label_values', 'bands', 'mean', 'std', 'nodata', 'gsd', 'stretch'):
            value = getattr(given, key)
            if value not in (None, (), {}):
                content[key] = (
                    [*map(list, value)]
                    if key == 'stretch'
                    else (list(value) if isinstance(value, tuple) else value)
                )
    write_description(dst / 'data.yaml', content)
