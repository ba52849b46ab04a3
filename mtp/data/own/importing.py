"""Import of a folder in any form into one layout, with a ``data.yaml``."""

import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from pycocotools import mask as coco_mask

from mtp.data.bands import measure
from mtp.data.description import write_description
from mtp.data.map_values import MapRule, read_rule
from mtp.data.own.area import cut, within
from mtp.data.own.contents import Data, LabelledObject, Sample
from mtp.data.own.rasters import (
    Bands,
    Part,
    Window,
    find_bands,
    ground_sampling_distance,
    write_image,
    write_map,
)
from mtp.data.own.scene_truth import scene_entry
from mtp.data.own.splitting import blocks, counted, divide, scene_of
from mtp.data.prepare.base import Report, process
from mtp.data.prepare.coco_files import Entry, coco_box, coco_image, write_coco
from mtp.data.prepare.tiling import MIN_OBJECT, Tiling, shares
from mtp.data.run_lengths import Axis, crop_masks, decode_mask, encode_mask, read_counts
from mtp.data.samrs.from_coco import coco_to_samrs
from mtp.data.samrs.to_coco import assemble, mask_entries, rectangle
from mtp.files import whole, write_json, write_text

# What a folder holds -> task that it is imported for.
TASKS = {
    'classes': 'classification',
    'maps': 'segmentation',
    'pairs': 'change_detection',
    'rotated': 'rotated_detection',
    'horizontal': 'horizontal_detection',
    'masks': 'pretraining',
}
KIND_OF = {task: kind for kind, task in TASKS.items()}

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
        bands: indices of the bands to take, from 1 on; empty for all.
        stretch: rule ``'MIN,MAX'`` or ``'p2,p98'`` by which 8 bits are made; None to keep the
            values.
        area: vector file of the ground that is labelled; None if all is.
    """

    train: float = 0.8
    group: str | None = None
    tile: int | None = None
    overlap: int = 0
    seed: int = 0
    as_rotated: bool = False
    kind: str | None = None
    bands: tuple[int, ...] = ()
    stretch: str | None = None
    area: Path | None = None


@dataclass(frozen=True)
class Writing:
    """How all images of an import are written.

    Attributes:
        bands: bands that are taken; None for 8-bit RGB.
        rule: meaning of the values of label maps, which are written as labels; None to keep them.
    """

    bands: Bands | None = None
    rule: MapRule | None = None

    def name(self, stem: str) -> str:
        """Return the name of an image that is written anew."""
        return f'{stem}.png' if self.bands is None or self.bands.as_rgb else f'{stem}.tif'


@dataclass(frozen=True)
class Piece:
    """Image, or tile of an image, to write.

    Attributes:
        sample: the image with its labels.
        split: split that it goes into.
        name: name of the file to write, with suffix.
        writing: how it is written.
        anew: whether it is written anew; else it is a link to the whole image.
        window: left, top and side of the tile in pixels; None for the whole image.
        area: ground that is labelled, in pixels of the image; None if all of the piece is.
        scene: name of the image that the tile is cut from; empty for a whole image.
    """

    sample: Sample
    split: str
    name: str
    writing: Writing
    anew: bool = False
    window: Window | None = None
    area: shapely.Geometry | None = None
    scene: str = ''

    @property
    def part(self) -> Part:
        """The part of the image to write."""
        return Part(self.sample.size, self.window, self.area)


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
    found = kind_of(data, options.as_rotated)
    kind = options.kind or found
    if kind != found and (found != 'masks' or kind not in ('horizontal', 'rotated')):
        raise ValueError(
            f'--task {TASKS[kind]}: {data.found.root} has labels for {TASKS[found]}: leave it out'
        )
    if kind == 'classes' and (options.tile is not None or options.area is not None):
        raise ValueError('--tile, --area: an image with one class for all of it is not cut')
    images = [path for s in data.samples for path in (s.image, s.later) if path is not None]
    bands = find_bands(images, options.bands, options.stretch, data.found.description)
    if kind == 'masks' and bands is not None and not bands.as_rgb:
        raise ValueError(
            f'{data.found.root}: pretraining takes 8-bit RGB, and these are {len(bands.chosen)} '
            f'bands of type {bands.dtype}: give --stretch p2,p98 (and --bands, three of them), or '
            '--task horizontal_detection or rotated_detection'
        )
    report = Report(bad=list(data.faults))
    report.left_out.update({reason: len(places) for reason, places in data.tally.left_out.items()})
    areas: Mapping[Path, shapely.Geometry] = {}
    if options.area is not None:
        kept, areas = within(data.samples, options.area, report.left_out)
        data = replace(data, samples=kept)
    anew = options.tile is not None or bool(areas) or (bands is not None and bands.rewrites)
    writing = Writing(bands, _map_rule(data) if anew else None)
    pieces = list(_pieces(data, options, writing, areas, report))
    if not pieces:
        raise ValueError(f'{data.found.root}: nothing is left to import: {dict(report.left_out)}')
    if kind == 'masks':
        splits = _write_masks(data, pieces, dst, report)
    else:
        splits = _WRITERS[kind](data, pieces, dst, report)
        if options.tile is not None:
            _write_scenes(pieces, kind, dst)
    _describe(data, dst, TASKS[kind], splits, writing, pieces)
    return report


def _map_rule(data: Data) -> MapRule | None:
    """Return the meaning of label maps: a border of 255 must not be taken for a class."""
    folders = [part.labels for part in data.found.parts if part.labels is not None]
    names = _map_classes(data)
    if data.found.form not in ('maps', 'pairs') or not names:
        return None
    description = data.found.description
    values = dict(description.label_values) if description else {}
    return read_rule(data.found.root, folders, names, values or None, data.tally)


def _map_classes(data: Data) -> tuple[str, ...]:
    description = data.found.description
    values = description.label_values.values() if description else ()
    return data.classes or tuple(dict.fromkeys(values))


def _pieces(
    data: Data,
    options: Options,
    writing: Writing,
    areas: Mapping[Path, shapely.Geometry],
    report: Report,
) -> Iterator[Piece]:
    """Yield the images or tiles of each split; names are unique within a split."""
    splits = _splits(data, options, report)
    tiling = options.tile and Tiling(options.tile, options.overlap)
    taken: set[tuple[str, str]] = set()
    for sample, split in zip(data.samples, splits):
        name = sample.image.name
        if (split, Path(name).stem) in taken and sample.label is None:
            name = f'{sample.image.parent.name}_{name}'
        taken.add((split, Path(name).stem))
        area = areas.get(sample.image)
        if not tiling:
            _, border = cut(area, Part(sample.size).extent)
            anew = border is not None or (writing.bands is not None and writing.bands.rewrites)
            name = writing.name(Path(name).stem) if anew else name
            yield Piece(sample, split, name, writing, anew, None, border)
            continue
        windows = [(int(x), int(y), int(side)) for x, y, side in tiling.windows(*sample.size)]
        parts: Sequence[str | None] = [split] * len(windows)
        if split == '':  # one scene for both
            axis = int(np.argmax(sample.size[::-1]))
            parts = blocks(
                max(sample.size), [(w[axis], w[axis] + w[2]) for w in windows], options.train
            )
            if not {'train', 'val'} <= {*parts}:
                raise ValueError(
                    f'{sample.image}: tiles of {options.tile} pixels are too large to divide it '
                    'into training and validation: give a smaller --tile, or a --split nearer to '
                    '0.5'
                )
        for window, part in zip(windows, parts):
            if part is None:
                report.left_out['tiles between the blocks of training and validation'] += 1
                continue
            met, border = cut(area, Part(sample.size, window).extent)
            if not met:
                report.left_out['tiles outside of the area'] += 1
                continue
            x, y, side = window
            scene = Path(name).stem
            called = writing.name(f'{scene}__{side}__{x}___{y}')
            yield Piece(sample, part, called, writing, True, window, border, scene)


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
        label = Path(piece.name).with_suffix(_map_suffix(piece, piece.sample.map))
        root = dst / piece.split
        items.append((piece, (root / 'images' / piece.name, root / 'labels' / label)))
    return _write_all(items, report, {split: f'{split}/images' for split in _found(pieces)})


def _write_pairs(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    items = []
    for piece in pieces:
        name, root, later = Path(piece.name), dst / piece.split, piece.sample.later
        label = name.with_suffix(_map_suffix(piece, piece.sample.map))
        if later is not None and not piece.anew:
            name = name.with_suffix(later.suffix)
        files = root / 'A' / piece.name, root / 'label' / label, root / 'B' / name
        items.append((piece, files))
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


def _write_scenes(pieces: Sequence[Piece], kind: str, dst: Path) -> None:
    """Keep the labels of the scenes, uncut, for the figures of a test."""
    of_scene: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        of_scene.setdefault((piece.split, piece.scene), []).append(piece)
    entries: dict[str, list[dict]] = {split: [] for split in _found(pieces)}
    for (split, scene), tiles in of_scene.items():
        objects = None
        if kind in ('rotated', 'horizontal'):
            # what cannot be used is reported with the tiles
            first = _rotated(tiles[0], Report()) if kind == 'rotated' else tiles[0]
            objects = first.sample.objects
        windows = [piece.window for piece in tiles if piece.window is not None]
        entries[split].append(scene_entry(scene, tiles[0].sample.size, windows, objects))
    for split, scenes in entries.items():
        write_json(dst / 'scenes' / f'{split}.json', dict(scenes=scenes))


def _write_masks(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    """Write the layout of SAMRS: semantic maps, masks and rotated boxes."""
    staging = dst.with_name(f'.{dst.name}.pieces')
    entries, valid = [], set()
    kept = [piece for piece in pieces if piece.split != 'test']
    if len(kept) < len(pieces):
        reason = 'images of the test split, which pretraining does not have'
        report.left_out[reason] += len(pieces) - len(kept)
    for _, group in itertools.groupby(kept, lambda piece: piece.sample.image):
        of_image = list(group)
        encoded = _encoded(of_image[0].sample, report)
        for piece in of_image:
            _write((piece, (staging / piece.name,)))
            objects = [
                dict(category_id=each.label, iscrowd=int(each.crowd), **mask_entries(rle))
                for each, rle in _masks(piece, encoded, report)
            ]
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


def _map_suffix(piece: Piece, source: Path | None) -> str:
    anew = piece.anew or piece.writing.rule is not None
    return '.png' if anew else source.suffix if source else ''


Item = tuple[Piece, tuple[Path, ...]]  # and its files: image, label map, later date


def _write_all(items: Sequence[Item], report: Report, splits: dict[str, str]) -> dict[str, str]:
    for split in splits:
        chosen = [item for item in items if item[0].split == split]
        process(_write, chosen, f'{split} images', report, _image)
    return splits


def _image(item: Item) -> Path:
    return item[0].sample.image


def _write(item: Item) -> None:
    """Write the files of a piece: links of whole images, or parts of them."""
    piece, targets = item
    sample, writing = piece.sample, piece.writing
    sources = (sample.image, sample.map, sample.later)
    for source, target in zip(sources, targets):
        if source is None or target.exists():
            continue
        if source == sample.map and (piece.anew or writing.rule is not None):
            dates = [path for path in (sample.image, sample.later) if path is not None]
            write_map(dates, source, target, piece.part, writing.bands, writing.rule)
        elif source != sample.map and piece.anew:
            write_image(source, target, piece.part, writing.bands)
        else:
            _link(source, target)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        with whole(target) as unfinished:
            shutil.copyfile(source, unfinished)


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


def _encoded(sample: Sample, report: Report) -> list[tuple[LabelledObject, dict]]:
    """Return the objects of an image with their masks as run lengths."""
    found = []
    for each in sample.objects:
        try:
            rle = encode_mask(each.mask, *sample.size)
        except ValueError as error:
            report.bad.append(f'{each.box.place}: the mask cannot be read: {error}')
            continue
        if coco_mask.area(rle):
            found.append((each, rle))
        else:
            report.left_out['objects with an empty mask'] += 1
    return found


def _masks(
    piece: Piece, encoded: Sequence[tuple[LabelledObject, dict]], report: Report
) -> Iterator[tuple[LabelledObject, dict]]:
    """Yield the objects that a piece holds, with their masks as run lengths, in its pixels."""
    if piece.window is None:
        yield from encoded
        return
    x, y, side = piece.window
    for each, rle in encoded:
        left, top, width, height = coco_mask.toBbox(rle)
        if left >= x + side or top >= y + side or left + width <= x or top + height <= y:
            continue
        mask = _crop(rle, piece.window)
        if mask.sum() >= MIN_OBJECT * int(coco_mask.area(rle)):
            yield each, coco_mask.encode(np.asfortranarray(mask))
        else:
            report.left_out[CUT] += 1


def _crop(rle: dict, window: Window) -> np.ndarray:
    """Cut a tile out of a mask, uint8 ``(side, side)``, without painting all of it."""
    x, y, side = window
    height, width = rle['size']
    counts = np.frombuffer(rle['counts'], np.uint8)
    rows = Axis(np.arange(y, min(y + side, height)), height)
    columns = Axis(np.arange(x, min(x + side, width)), width)
    _, boxes, pixels = crop_masks(
        read_counts(counts, np.array([len(counts)]), height), rows, columns
    )
    mask = np.zeros((side, side), np.uint8)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = pixels.reshape(x2 - x1, y2 - y1).T
    return mask


def _count(report: Report, split: str) -> None:
    report.made[f'{split} objects'] = report.made.get(f'{split} objects', 0) + 1


def _describe(
    data: Data,
    dst: Path,
    task: str,
    splits: dict[str, str],
    writing: Writing,
    pieces: Sequence[Piece],
) -> None:
    content: dict = dict(path='.', **splits)
    names = data.classes if writing.rule is None else _map_classes(data)
    if names:
        content['names'] = list(names)
    content['task'] = task
    given = data.found.description
    for key in ('label_values', 'bands', 'mean', 'std', 'nodata', 'gsd', 'stretch', 'stretched'):
        value = getattr(given, key, None)
        if value not in (None, (), {}):
            content[key] = value
    if writing.rule is not None:
        content.pop('label_values', None)  # the maps hold labels now
    if writing.bands is not None:
        content |= _of_bands(dst, splits, writing.bands, pieces, content)
        if writing.bands.rewrites:
            content.pop('nodata', None)  # it was of the values before
    if 'gsd' not in content:
        images = list(dict.fromkeys(piece.sample.image for piece in pieces))
        distance = ground_sampling_distance(images)
        content |= {} if distance is None else dict(gsd=distance)
    write_description(dst / 'data.yaml', content)


def _of_bands(
    dst: Path, splits: dict[str, str], bands: Bands, pieces: Sequence[Piece], given: Mapping
) -> dict:
    """Return what a ``data.yaml`` says of bands: which, how they are stretched, mean and std.

    Args:
        dst: folder of the import.
        splits: split -> folder of its images, below ``dst``.
        bands: bands that were taken.
        pieces: images that were written.
        given: content of the ``data.yaml`` of the source.
    """
    content: dict = {}
    if bands.rewrites:
        content['stretch'] = bands.stretch or ((0.0, 255.0),) * len(bands.chosen)
    if bands.rewrites or 'stretch' not in given:  # else the scenes' bands are named already
        content['bands'] = bands.chosen
    if isinstance(bands.stretch, str) and bands.stretch.startswith('p'):
        images = [p for piece in pieces for p in (piece.sample.image, piece.sample.later) if p]
        found = {path.name: bands.limits(path) for path in dict.fromkeys(images)}
        content['stretched'] = {name: each.limits for name, each in found.items() if each}
    if bands.as_rgb or (len(given.get('mean', ())) == len(bands.chosen) and not bands.rewrites):
        return content
    stored = range(1, len(bands.chosen) + 1) if bands.rewrites else bands.chosen
    nodata = None if bands.rewrites else bands.nodata
    content |= {} if nodata is None else dict(nodata=nodata)
    statistics = measure(_training_images(dst, splits), list(stored), nodata)
    return content | dict(mean=statistics.mean, std=statistics.std)


def _training_images(dst: Path, splits: dict[str, str]) -> list[Path]:
    folder = dst / splits['train']
    if (folder / 'A').is_dir():
        return sorted(path for date in 'AB' for path in (folder / date).iterdir())
    return sorted(path for path in folder.rglob('*') if path.is_file())
