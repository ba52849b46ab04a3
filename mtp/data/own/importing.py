"""Import of a folder in any form into one layout, with a ``data.yaml``."""

import itertools
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mtp.data.bands import measure
from mtp.data.decoding import read_map
from mtp.data.description import write_description
from mtp.data.map_values import MapRule, read_rule
from mtp.data.own.area import cut, within
from mtp.data.own.contents import Data, LabelledObject, Sample
from mtp.data.own.equal_images import equal, leave_out_equal
from mtp.data.own.mask_outlines import crop, encode, outlined, with_outlines, with_rectangles
from mtp.data.own.rasters import (
    Bands,
    Part,
    Window,
    find_bands,
    ground_sampling_distance,
    write_image,
    write_map,
)
from mtp.data.own.sam_masks import SAM_SIDE, MaskPredictor, masks_from_boxes
from mtp.data.own.scene_truth import scene_entry
from mtp.data.own.splitting import blocks, counted, divide, scene_of
from mtp.data.own.unfinished import begin, fingerprint, is_same
from mtp.data.prepare.base import Report, process
from mtp.data.prepare.coco_files import Entry, coco_box, coco_image, write_coco
from mtp.data.prepare.images import write_png
from mtp.data.prepare.tiling import MIN_OBJECT, Tiling, shares
from mtp.data.samrs.from_coco import coco_to_samrs
from mtp.data.samrs.subsets import BACKGROUND, IGNORED_ON_DISK, SUBSETS
from mtp.data.samrs.to_coco import assemble, mask_entries
from mtp.files import link_or_copy, write_json, write_text
from mtp.sample_fields import IGNORED

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

# What a folder holds, and what it may be imported as instead: masks have boxes of both kinds, and
# boxes and maps alone pretrain the heads that they have labels for.
_SUITED = (
    ('masks', 'horizontal'),
    ('masks', 'rotated'),
    ('horizontal', 'masks'),
    ('rotated', 'masks'),
    ('maps', 'masks'),
)
_TEST = 'images of the test split, which pretraining does not have'

# tasks of a pretraining that scenes judge, by what their labels are
JUDGED = dict(
    masks=('semantic', 'instance', 'rotated'),
    horizontal=('instance',),
    rotated=('rotated',),
    maps=('semantic',),
)

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
        kind: what to import objects with masks for, ``'horizontal'`` or ``'rotated'``, or boxes
            and label maps, ``'masks'`` for a pretraining; None for what the labels are for.
        bands: indices of the bands to take, from 1 on; empty for all.
        stretch: rule ``'MIN,MAX'`` or ``'p2,p98'`` by which 8 bits are made; None to keep the
            values.
        area: vector file of the ground that is labelled; None if all is.
        predict: what makes masks of objects that have only boxes; None to import these as they are.
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
    predict: MaskPredictor | None = None


@dataclass(frozen=True)
class Writing:
    """How all images of an import are written.

    Attributes:
        bands: bands that are taken; None for 8-bit RGB.
        rule: meaning of the values of label maps, which are written as labels; None to keep them.
        ignored: value of ignored pixels in label maps that are written.
    """

    bands: Bands | None = None
    rule: MapRule | None = None
    ignored: int = IGNORED

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


def suits(found: str, kind: str) -> bool:
    """Return whether data of one kind, a key of :data:`TASKS`, can be imported as another."""
    return found == kind or (found, kind) in _SUITED


def import_data(data: Data, dst: Path, options: Options) -> Report:
    """Write data into one layout below a folder; its ``data.yaml`` is written last.

    Images of which another split has an equal file are left out of the training, and reported.

    Images are linked where the file system allows it, else copied. What exists already from an
    interrupted import is kept, if options and sources are the same.

    Args:
        data: what to import.
        dst: folder to write.
        options: division and tiles.

    Returns:
        Report: counts, what was left out, and what could not be used.

    Raises:
        FileExistsError: ``dst`` holds a finished import, or an unfinished one of other options or
            sources.
        ValueError: the data cannot be divided or cut as the options say, or all are at fault.
    """
    if (dst / 'data.yaml').exists():
        raise FileExistsError(f'{dst} holds a finished import: remove it or choose another folder')
    if data.faults and not data.samples:
        raise ValueError(f'{data.found.root}: nothing can be used: {"; ".join(data.faults[:3])}')
    found = kind_of(data, options.as_rotated)
    if options.as_rotated and not data.rotated and found == 'rotated':
        number = sum(len(sample.objects) for sample in data.samples)
        data.tally.note(f'{number:,} horizontal boxes are taken as rotated ones, along the axes')
    if options.predict is not None:
        if found not in ('horizontal', 'rotated', 'masks'):
            raise ValueError(f'--masks: {data.found.root} has no boxes ({data.found.form})')
        if options.kind not in (None, 'masks'):
            raise ValueError(f'--masks: {TASKS[options.kind]} needs none: leave out one of the two')
        found = 'masks'
    kind = options.kind or found
    if not suits(found, kind):
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
    samples, leaks = leave_out_equal(data.samples)
    data = replace(data, samples=samples)
    report = Report(bad=[*data.faults, *leaks])
    report.left_out.update({reason: len(places) for reason, places in data.tally.left_out.items()})
    areas: Mapping[Path, shapely.Geometry] = {}
    if options.area is not None:
        kept, areas = within(data.samples, options.area, report.left_out)
        data = replace(data, samples=kept)
    if kind == 'rotated':
        data = replace(data, samples=[with_rectangles(each, report) for each in data.samples])
    if kind == found == 'masks' and options.tile is not None:
        data = replace(data, samples=[with_outlines(each, report) for each in data.samples])
    anew = options.tile is not None or bool(areas) or (bands is not None and bands.rewrites)
    semantic = kind == 'masks' and found == 'maps'
    rule = _map_rule(data) if anew or semantic else None
    if semantic and rule is None:
        raise ValueError(
            f'{data.found.root}: the classes of the label maps have no names: give `names`, or '
            '`label_values`, in data.yaml'
        )
    writing = Writing(bands, rule, IGNORED_ON_DISK if semantic else IGNORED)
    pieces = list(_pieces(data, options, writing, areas, report, flat=kind == 'masks'))
    if not pieces:
        raise ValueError(f'{data.found.root}: nothing is left to import: {dict(report.left_out)}')
    if not any(piece.split == 'train' for piece in pieces):
        raise ValueError(
            f'{data.found.root}: no image is left for training'
            + (f', for {len(report.bad):,} faults: {report.bad[0]}' if report.bad else '')
            + f'; `mtp data inspect {data.found.root}` lists all'
        )
    state = _state(data, pieces, kind, options)
    if kind == 'masks' and found == 'masks':
        splits = _write_masks(data, pieces, dst, report, options.predict, state)
    else:
        begin(dst, state)
        if kind == 'masks':
            splits = _write_alone(found, data, pieces, dst, report)
        else:
            splits = _WRITERS[kind](data, pieces, dst, report)
    if options.tile is not None:
        _write_scenes(data, pieces, dst, kind, found)
    _describe(data, dst, TASKS[kind], splits, writing, pieces)
    return report


def _state(data: Data, pieces: Sequence[Piece], kind: str, options: Options) -> str:
    """Return the state of an import by which its files are known again."""
    written = [
        (p.split, p.name, p.anew, p.window, p.area and p.area.wkb, p.sample.label) for p in pieces
    ]
    meant = (data.found.description, data.classes, kind, replace(options, predict=None))
    samples = list({piece.sample.image: piece.sample for piece in pieces}.values())
    sources = [path for s in samples for path in (s.image, s.map, s.later) if path is not None]
    return fingerprint([*meant, pieces[0].writing.bands, *written], sources)


def _map_rule(data: Data) -> MapRule | None:
    """Return the meaning of label maps: a border of 255 must not be taken for a class."""
    if data.found.form not in ('maps', 'pairs') or not data.map_classes:
        return None
    given = data.label_values or None
    return read_rule(data.found.root, data.label_folders, data.map_classes, given, data.tally)


def _pieces(
    data: Data,
    options: Options,
    writing: Writing,
    areas: Mapping[Path, shapely.Geometry],
    report: Report,
    flat: bool,
) -> Iterator[Piece]:
    """Yield the images or tiles of each split.

    Names are unique within a split, or, where all lie in one folder (``flat``), altogether; of
    scenes within a split and class.
    """
    splits = _splits(data, options, report)
    tiling = options.tile and Tiling(options.tile, options.overlap)
    taken: dict[tuple[str, int | None], set[str]] = defaultdict(set)
    for sample, split in zip(data.samples, splits):
        before = (split,) if flat else ()
        folder = '' if flat else split, sample.label
        name = _unique(sample.image, data.found.root, before, taken[folder])
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


def _unique(image: Path, root: Path, before: Sequence[str], taken: set[str]) -> str:
    """Return a name for an image whose stem is new, also where letters' case does not count.

    Args:
        image: the image; its own name is taken if it is new, else it goes on from as many folders
            of its path as are needed, else from a number.
        root: folder of the data, below which the path counts.
        before: what is put before the name first.
        taken: stems that are taken, case-folded; the new one is added.
    """
    folders = image.relative_to(root).parts[:-1] if image.is_relative_to(root) else ()
    above = [folders[start:] for start in reversed(range(len(folders)))]
    numbers = ((str(number),) for number in itertools.count(2))
    for each in itertools.chain([(), before], above, numbers):
        name = '_'.join((*each, image.name))
        if Path(name).stem.casefold() not in taken:
            break
    taken.add(Path(name).stem.casefold())
    return name


def _splits(data: Data, options: Options, report: Report) -> list[str]:
    """Return the split of each image; ``''`` for a scene that is divided into blocks."""
    given = {sample.split for sample in data.samples}
    if 'val' in given and None not in given:
        return [sample.split or '' for sample in data.samples]
    scene = scene_of(options.group)
    chosen = [i for i, sample in enumerate(data.samples) if sample.split in (None, 'train')]
    same: dict[str, str] = {}  # scenes with equal images are one
    for group in equal([data.samples[i] for i in chosen], lambda sample: scene(sample.image)):
        first, *others = sorted({_first(scene(sample.image), same) for sample in group})
        same |= dict.fromkeys(others, first)
    pairs = [
        (_first(scene(sample.image), same), [data.classes[label] for label in sample.labels])
        for sample in map(data.samples.__getitem__, chosen)
    ]
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


def _first(scene: str, same: Mapping[str, str]) -> str:
    while scene in same:
        scene = same[scene]
    return scene


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
    for split in splits:
        chosen = [piece for piece in pieces if piece.split == split]
        _write_corners(data, chosen, dst / split / 'labels', report)
    return splits


def _write_corners(data: Data, pieces: list[Piece], folder: Path, report: Report) -> None:
    """Write the corners of objects as DOTA has them, a file for each image."""
    for piece in pieces:
        lines = ''
        for each, corners in _inside(piece, report):
            values = ' '.join(f'{value:.10g}' for value in corners.reshape(-1))
            lines += f'{values} {data.classes[each.label]} {each.box.difficulty}\n'
            _count(report, piece.split)
        write_text(folder / f'{Path(piece.name).stem}.txt', lines)


def _write_horizontal(data: Data, pieces: list[Piece], dst: Path, report: Report) -> dict[str, str]:
    items = [(piece, (dst / piece.split / 'images' / piece.name,)) for piece in pieces]
    splits = _write_all(items, report, {split: f'{split}/images' for split in _found(pieces)})
    for split in splits:
        entries = _box_entries([piece for piece in pieces if piece.split == split], report)
        write_coco(dst / f'{split}.json', entries, data.classes, split, report)
    return splits


def _box_entries(pieces: Sequence[Piece], report: Report) -> list[Entry]:
    """Return images with horizontal boxes as a COCO json has them."""
    entries: list[Entry] = []
    for piece in pieces:
        boxes = []
        for each, corners in _inside(piece, report):
            (x1, y1), (x2, y2) = corners.min(0), corners.max(0)
            boxes.append(coco_box(each.label, x1, y1, x2, y2) | dict(iscrowd=int(each.crowd)))
        entries.append(coco_image(piece.name, _size(piece), boxes))
    return entries


def _write_alone(
    found: str, data: Data, pieces: list[Piece], dst: Path, report: Report
) -> dict[str, str]:
    """Write the layout of SAMRS with labels of one task: horizontal or rotated boxes, or maps."""
    layout, pieces = SUBSETS['sota'], _without_test(pieces, report)
    items: list[Item] = []
    for piece in pieces:
        semantic = dst / layout.semantic / f'{Path(piece.name).stem}.png'
        files = (dst / layout.images / piece.name, semantic)
        items.append((piece, files if found == 'maps' else files[:1]))
    splits = _write_all(items, report, {split: layout.images for split in _found(pieces)})
    for split in splits:
        chosen = [piece for piece in pieces if piece.split == split]
        if found == 'horizontal':
            entries = _box_entries(chosen, report)
        else:  # the json lists the images
            entries = [coco_image(piece.name, _size(piece), []) for piece in chosen]
        if found == 'rotated':
            _write_corners(data, chosen, dst / layout.rotated, report)
        path = dst / layout.instances.format(split='valid' if split == 'val' else split)
        write_coco(path, entries, data.map_classes, split, report)
    return splits


def _write_scenes(data: Data, pieces: Sequence[Piece], dst: Path, kind: str, found: str) -> None:
    """Keep the labels of the scenes, uncut, for the figures of a test.

    Args:
        data: the data.
        pieces: their tiles.
        dst: folder of the import.
        kind: what the labels were imported for.
        found: what they are.
    """
    of_scene: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        of_scene.setdefault((piece.split, piece.scene), []).append(piece)
    content: dict = {}
    labelled = found if kind == 'masks' else kind
    if labelled in ('rotated', 'horizontal', 'masks'):
        content['classes'] = data.classes
    if kind == 'masks':
        content['tasks'] = JUDGED[found]
    entries: dict[str, list[dict]] = {split: [] for split in _found(pieces)}
    for (split, scene), tiles in of_scene.items():
        sample, objects = tiles[0].sample, None
        if labelled == 'masks':
            objects = [outlined(each, data.rotated) for each in sample.objects]
            if any(each.rotated is None for each in objects):  # their masks are SAM's
                content['tasks'] = JUDGED['horizontal']
        elif 'classes' in content:
            objects = [replace(each, rotated=None) for each in sample.objects]
        windows = [piece.window for piece in tiles if piece.window is not None]
        entries[split].append(scene_entry(scene, sample.size, windows, objects))
    for split, scenes in entries.items():
        write_json(dst / 'scenes' / f'{split}.json', content | dict(scenes=scenes))


def _write_masks(
    data: Data,
    pieces: list[Piece],
    dst: Path,
    report: Report,
    predict: MaskPredictor | None,
    state: str,
) -> dict[str, str]:
    """Write the layout of SAMRS: semantic maps, masks and rotated boxes."""
    if dst.exists():
        raise FileExistsError(f'{dst} exists: remove it or choose another folder')
    if len(data.classes) > BACKGROUND:
        raise ValueError(
            f'{data.found.root} has {len(data.classes)} classes: a grey semantic map takes '
            f'{BACKGROUND} at most'
        )
    staging = dst.with_name(f'.{dst.name}.pieces')
    if not is_same(staging, state):  # of an import that nobody goes on with
        shutil.rmtree(staging, ignore_errors=True)
    begin(staging, state)
    try:
        return _write_staged(data, pieces, staging, dst, report, predict)
    except ValueError:  # a new start would meet it again: only what is killed goes on
        shutil.rmtree(staging)
        raise


def _write_staged(
    data: Data,
    pieces: list[Piece],
    staging: Path,
    dst: Path,
    report: Report,
    predict: MaskPredictor | None,
) -> dict[str, str]:
    """Write the layout of SAMRS by way of a COCO json beside the images, in a folder for both."""
    entries, valid = [], set()
    kept = _without_test(pieces, report)
    if predict is not None:
        _note_large(data, kept)
        kept = tqdm(kept, 'masks')
    for _, group in itertools.groupby(kept, lambda piece: piece.sample.image):
        encoded: list[tuple[LabelledObject, dict]] | None = None
        for piece in group:
            if encoded is None:
                encoded = _encoded(piece.sample, report)
            _write((piece, (staging / piece.name,)))
            objects = [_mask_entry(each, rle) for each, rle in _masks(piece, encoded, report)]
            if predict is not None:
                objects += _predicted(predict, piece, staging / piece.name, data.rotated, report)
            entries.append(coco_image(piece.name, _size(piece), objects))
            if piece.split == 'val':
                valid.add(piece.name)
    if not any(objects for _, objects in entries):
        counts = [f'{count:,} {reason}' for reason, count in report.left_out.items()]
        counts += [f'{len(report.bad):,} that could not be used'] if report.bad else []
        raise ValueError(
            f'{"" if predict is None else "--masks: "}no mask is left of {data.found.root} '
            f'({", ".join(counts) or "no objects"})'
            + ''.join(f'; {line}' for line in report.bad[:3])
        )
    annotations = staging / f'.{dst.name}.json'
    write_json(annotations, assemble(entries, data.classes))
    made = coco_to_samrs(annotations, staging, dst, valid=valid)
    shutil.rmtree(staging)
    for split, count in made.images.items():
        report.made[f'{split} images'] = count
        report.made[f'{split} objects'] = sum(made.objects[split].values())
    report.bad += made.bad
    for piece in kept:
        outside = piece.part.outside()
        path = dst / SUBSETS['sota'].semantic / f'{Path(piece.name).stem}.png'
        if outside is not None and path.is_file():
            labels = read_map(path)
            labels[: outside.shape[0], : outside.shape[1]][outside] = IGNORED_ON_DISK
            write_png(path, labels)
    return dict(train='trainval/images', val='trainval/images')


def _without_test(pieces: list[Piece], report: Report) -> list[Piece]:
    kept = [piece for piece in pieces if piece.split != 'test']
    if len(kept) < len(pieces):
        report.left_out[_TEST] += len(pieces) - len(kept)
    return kept


def _mask_entry(each: LabelledObject, rle: dict) -> dict:
    return dict(category_id=each.label, iscrowd=int(each.crowd), **mask_entries(rle))


def _predicted(
    predict: MaskPredictor, piece: Piece, image: Path, rotated: bool, report: Report
) -> Iterator[dict]:
    """Yield the entries of the objects without a mask, with one that is made from the box."""
    boxes = tuple(each for each in piece.sample.objects if not each.mask)
    prompts = list(_inside(replace(piece, sample=replace(piece.sample, objects=boxes)), report))
    for each, corners, mask in masks_from_boxes(predict, image, prompts, report.left_out):
        drawn = dict(corners=corners.reshape(-1).tolist()) if rotated else {}
        yield _mask_entry(each, coco_mask.encode(np.asfortranarray(mask))) | drawn


def _note_large(data: Data, pieces: Sequence[Piece]) -> None:
    large = sum(max(_size(piece)) > SAM_SIDE for piece in pieces)
    if large:
        data.tally.note(
            f'{large:,} images are larger than the {SAM_SIDE} pixels at which SAM sees them: masks '
            f'of small objects are coarse; --tile {SAM_SIDE} makes finer ones'
        )


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
            write_map(
                dates, source, target, piece.part, writing.bands, writing.rule, writing.ignored
            )
        elif source != sample.map and piece.anew:
            write_image(source, target, piece.part, writing.bands)
        else:
            link_or_copy(source, target)


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
    """Return the objects of an image that have masks, with these as run lengths."""
    found = ((each, encode(each, sample.size, report)) for each in sample.objects if each.mask)
    return [(each, rle) for each, rle in found if rle is not None]


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
        mask = crop(rle, piece.window)
        if mask.sum() >= MIN_OBJECT * int(coco_mask.area(rle)):
            yield each, coco_mask.encode(np.asfortranarray(mask))
        else:
            report.left_out[CUT] += 1


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
    names = data.classes if writing.rule is None else data.map_classes
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
