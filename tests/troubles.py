"""Troubles that users of this field reported, tried on every reader.

A cell of the table is what a small input shows: *read* (labels and pixels are those that are
meant), *counted* (what is lost is), *named* (the error has the file, and where there are lines the
line), or a reason why the trouble cannot occur. Anything else, such as an object that is lost
without a word, fails. ``tests/test_troubles.py`` tries all cells; ``python -m tests.troubles``
writes the table into docs/labels.md.
"""

import gc
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmrotate.structures import QuadriBoxes
from PIL import Image

from mtp.data import (
    BoxFilesDetection,
    ChangeDataset,
    COCODetection,
    SAMRSDataset,
    SceneDataset,
    SegmentationDataset,
)
from mtp.data.samrs.subsets import SUBSETS
from mtp.engine import CheckDataHook, CheckDatasetsHook
from mtp.evaluation import DetectionMetric, RotatedMetric
from tests.conftest import REPO
from tests.label_forms import XML, coco, write

PAGE = REPO / 'docs' / 'labels.md'
BEGIN, END = '<!-- made by tests/troubles.py: cells -->', '<!-- end -->'
CLASSES = ('plane', 'small-vehicle')
SIZE = 64, 96  # height and width of the images, pixels


def box(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)


BOXES = {'a': box(10, 12, 40, 30), 'b': box(20, 8, 60, 40)}
NAMES = {'a': 'plane', 'b': 'small-vehicle'}
Truth = dict[str, list[tuple[str, np.ndarray]]]


@dataclass
class World:
    """A small data set that is about to be written, and how it is to be read.

    Attributes:
        root: its folder.
        truth: stem of an image -> class and corners of each object.
        classes: classes by their number in the label files.
        given: classes of the config.
        images: stem of an image -> its pixels, ``(H, W, 3)``; of change pairs both dates have them.
        suffix: suffix of the images.
        kwargs: further arguments of the reader.
        after: what is done to the written files.
        check: whether the data are compared with a head of one class.
        place: texts that an error, or the list of what is left out, must have.
        ignored: pixels without data of each label map, all of the first class.
        silent: whether a model finds nothing in the data.
        lost: what is not read if it is left out: pairs of a stem and the number of an object.
    """

    root: Path
    truth: Truth = field(
        default_factory=lambda: {stem: [(NAMES[stem], BOXES[stem])] for stem in BOXES}
    )
    classes: tuple[str, ...] = CLASSES
    given: Any = CLASSES
    images: dict[str, np.ndarray] = field(
        default_factory=lambda: {
            stem: np.full((*SIZE, 3), 50 + 40 * number, np.uint8)
            for number, stem in enumerate(BOXES)
        }
    )
    suffix: str = '.png'
    kwargs: dict[str, Any] = field(default_factory=dict)
    after: list[Callable[[], object]] = field(default_factory=list)
    check: bool = False
    place: tuple[str, ...] = ()
    ignored: int = 0
    silent: bool = False
    lost: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Reader:
    """A column of the table.

    Attributes:
        name: name in the table.
        kind: ``'boxes'``, ``'maps'``, ``'pairs'`` or ``'folders'``.
        form: form of its label files.
        images: folders of the images below the root.
        labels: folder of the label files or maps below the root.
    """

    name: str
    kind: str
    form: str
    images: tuple[str, ...]
    labels: str = ''

    @property
    def suffix(self) -> str:
        """Suffix of a label file."""
        if self.kind in ('maps', 'pairs'):
            return '.png'
        return '.xml' if self.form in XML else '.txt'

    def file(self, world: World, stem: str) -> Path:
        """Return the label file of an image."""
        if self.form == 'coco':
            return world.root / self.labels / 'all.json'
        return world.root / self.labels / f'{stem}{self.suffix}'

    def image(self, world: World, stem: str) -> Path:
        """Return the file of an image."""
        below = NAMES[stem] if self.kind == 'folders' else ''
        return world.root / self.images[0] / below / f'{stem}{world.suffix}'


SOTA = SUBSETS['sota']
READERS = {
    reader.name: reader
    for reader in (
        Reader('COCO', 'boxes', 'coco', ('images',), 'labels'),
        Reader('DOTA', 'boxes', 'dota', ('images',), 'labels'),
        Reader('YOLO', 'boxes', 'yolo', ('images',), 'labels'),
        Reader('VOC', 'boxes', 'voc', ('images',), 'labels'),
        Reader('DIOR-R', 'boxes', 'dior_r', ('images',), 'labels'),
        Reader('FAIR1M', 'boxes', 'fair1m', ('images',), 'labels'),
        Reader('label maps', 'maps', '', ('train/images',), 'train/labels'),
        Reader('change pairs', 'pairs', '', ('train/A', 'train/B'), 'train/label'),
        Reader('class folders', 'folders', '', ('train',)),
        Reader('SAMRS', 'boxes', 'samrs', (SOTA.images,), SOTA.rotated),
    )
}


# ---- writing ----


def write_world(reader: Reader, world: World) -> None:
    """Write images and labels."""
    for stem, pixels in world.images.items():
        for folder in reader.images:
            below = world.truth[stem][0][0] if reader.kind == 'folders' else ''
            path = world.root / folder / below / f'{stem}{world.suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    labels = world.root / reader.labels
    if reader.kind in ('maps', 'pairs'):
        top = 255 if reader.kind == 'pairs' else 1
        for stem in world.images:
            save_map(labels / f'{stem}.png', stem, 0, top)
    elif reader.form == 'samrs':
        write_samrs(world)
    elif reader.kind == 'boxes':
        write(reader.form, labels, world.truth, world.classes, SIZE)
        if reader.form == 'yolo':
            (labels / 'classes.txt').write_text('\n'.join(world.classes))
    for change in world.after:
        change()


def write_samrs(world: World) -> None:
    root = world.root
    write('dota', root / SOTA.rotated, world.truth, world.classes, SIZE)
    content = coco(world.truth, world.classes, SIZE, masks=True)
    for annotation in content['annotations']:
        annotation.update(iscrowd=0, area=1)
    (root / SOTA.instances.format(split='train')).write_text(json.dumps(content))
    for stem in world.images:
        save_map(root / SOTA.semantic / f'{stem}.png', stem, 255, 0)


def values_of(stem: str, low: int, high: int) -> np.ndarray:
    """Return the values of a label map: ``high`` in the box of the image."""
    x1, y1, x2, y2 = BOXES[Path(stem).name[0]][[0, 2]].reshape(-1).astype(int)
    values = np.full(SIZE, low, np.int32)
    values[y1:y2, x1:x2] = high
    return values


def save_map(path: Path, stem: str, low: int, high: int, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values_of(stem, low, high).astype(dtype)).save(path)


# ---- reading ----


def open_data(reader: Reader, world: World) -> Any:
    """Return the data set as training opens it."""
    root, given = str(world.root), world.given
    load = dict(type='mtp.LoadImage')
    if reader.kind == 'folders':
        init_default_scope('mmpretrain')
        return SceneDataset(
            **dict(classes=given) | world.kwargs,
            data_root=root, data_prefix='train', pipeline=[load],
        )  # fmt: skip
    if reader.kind == 'maps':
        init_default_scope('mmseg')
        pipeline = [load, dict(type='mtp.LoadClassMap', num_classes=2)]
        return SegmentationDataset(root, 'train', given, pipeline=pipeline, **world.kwargs)
    if reader.kind == 'pairs':
        init_default_scope('mmseg')
        pipeline = [dict(type='mtp.LoadPair'), dict(type='mtp.LoadChange')]
        return ChangeDataset(root, 'train', pipeline=pipeline, **world.kwargs)
    init_default_scope('mmdet')
    if reader.form == 'samrs':
        pipeline = [load, dict(type='mtp.LoadLabels')]
        return SAMRSDataset('sota', root, classes=given, pipeline=pipeline)
    common = dict(
        data_root=root, classes=given, pipeline=[load], filter_cfg=dict(filter_empty_gt=True)
    )
    if reader.form == 'coco':
        return COCODetection(ann_file='labels/all.json', data_prefix=dict(img='images'), **common)
    return BoxFilesDetection(
        reader.form, ann_file='labels', data_prefix=dict(img_path='images'), **common
    )


def observe(reader: Reader, dataset: Any) -> dict[str, Any]:
    """Return what is read of each image: its size, and its labels."""
    found = {}
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        sample = dataset[index]
        stem = Path(record['img_path']).stem
        if reader.kind == 'folders':
            labels: Any = int(sample['gt_label'])
        elif reader.kind in ('maps', 'pairs'):
            labels = np.bincount(sample['gt_seg_map'].reshape(-1), minlength=256)
            labels = {value: int(count) for value, count in enumerate(labels) if count}
        elif reader.form == 'samrs':
            boxes = sample['gt_rotated_bboxes'].convert_to('qbox').tensor.reshape(-1, 4, 2)
            labels = list(zip(sample['gt_rotated_bboxes_labels'].tolist(), map(extent, boxes)))
        else:
            labels = [
                (each['bbox_label'], extent(np.reshape(each['bbox'], (-1, 2))))
                for each in record['instances']
            ]
        found[stem] = (*sample['img'].shape[:2], labels)
    return found


def extent(corners: Any) -> list[int]:
    """Return x1, y1, x2, y2 of corners, as whole pixels."""
    corners = np.asarray(corners, float)
    return [
        *corners.min(0).round().astype(int).tolist(),
        *corners.max(0).round().astype(int).tolist(),
    ]


def meant(reader: Reader, world: World, lost: Sequence[tuple[str, int]] = ()) -> dict[str, Any]:
    """Return what is to be read of each image."""
    found = {}
    for stem, pixels in world.images.items():
        objects = world.truth[stem]
        if reader.kind == 'folders':
            labels: Any = label_of(world, objects[0][0])
        elif reader.kind in ('maps', 'pairs'):
            inside = int(values_of(stem, 0, 1).sum())
            labels = {0: SIZE[0] * SIZE[1] - inside - world.ignored, 1: inside}
            labels |= {255: world.ignored} if world.ignored else {}
        else:
            labels = [
                (label_of(world, name), extent(corners))
                for number, (name, corners) in enumerate(objects)
                if (stem, number) not in lost
            ]
        if (stem, -1) not in lost and (labels != [] or reader.form == 'samrs'):
            found[Path(stem).name] = (*pixels.shape[:2], labels)
    return dict(sorted(found.items()))


def label_of(world: World, name: str) -> int:
    """Return the label of a class, however it is spelled here."""
    plain = [each.lower().replace(' ', '-') for each in world.given]
    return plain.index(name.lower().replace(' ', '-'))


def compare_head(reader: Reader, dataset: Any) -> None:
    """Compare the data with a model of one class, as before the first step."""
    loader = SimpleNamespace(dataset=dataset)
    model = torch.nn.Module()
    if reader.form == 'samrs':
        loader.dataset = SimpleNamespace(metainfo=dict(datasets=dict(sota=dataset.metainfo)))
        model.datasets = dict(sota=dict(num_classes=1, tasks=('semantic',)))
        CheckDatasetsHook().check(SimpleNamespace(model=model), loader)
        return
    model.head = torch.nn.Identity()
    model.head.num_classes = 1
    CheckDataHook().check(SimpleNamespace(model=model), loader)


def outcome(reader: Reader, trouble: Callable, root: Path) -> str:
    """Try a trouble on a reader; return the cell.

    Raises:
        AssertionError: what is read is neither what is meant, nor counted, nor is the error clear.
    """
    world = World(root)
    reason = trouble(reader, world)
    if isinstance(reason, str):
        return f'– {reason}'
    write_world(reader, world)
    try:
        dataset = open_data(reader, world)
        if world.check:
            compare_head(reader, dataset)
        if world.silent:
            figures = evaluate_nothing(dataset)
            main = {'coco/bbox_mAP', 'coco/bbox_mAP_50'}, {'dota/mAP', 'dota/AP50', 'dota/AP75'}
            assert any(all(figures.get(key) == 0 for key in keys) for keys in main), figures
            return 'AP 0'
        found = observe(reader, dataset)
    except (ValueError, OSError) as error:
        text = str(error)
        assert '\n' not in text and all(each in text for each in world.place), text
        return 'named'
    assert not world.check
    tally = dataset.tally
    places = '\n'.join(tally.lines())
    full = meant(reader, world)
    if found != full:
        assert found == meant(reader, world, world.lost), (found, full)
        assert places and world.lost
    if places:
        assert all(each in places for each in world.place), places
        return 'counted'
    if tally.ignored:  # crowds
        return 'counted'
    usual = ('label maps of ', 'classes by index')
    return 'read, noted' if any(not n.startswith(usual) for n in tally.notes) else 'read'


# ---- troubles ----

NO_BOXES, NO_TEXT, NO_MAPS = 'no boxes', 'no label text', 'no label map'
FIXED = 'two classes, fixed'
NO_IDS = 'no ids: names of files count'
Answer = str | None  # why the trouble cannot occur


def spelling(reader: Reader, world: World) -> Answer:
    """Write a class in another case, with another separator."""
    if reader.kind in ('maps', 'pairs'):
        names = ('Unchanged', 'Changed') if reader.kind == 'pairs' else ('Plane', 'Small Vehicle')
        world.kwargs = dict(
            label_values=dict(zip((0, 255 if reader.kind == 'pairs' else 1), names))
        )
        return None
    world.truth['b'] = [('Small Vehicle', BOXES['b'])]
    world.classes = ('plane', 'Small Vehicle')
    return None


def unknown_class(reader: Reader, world: World) -> Answer:
    """Label an object with a class that the config does not have."""
    if reader.kind in ('maps', 'pairs'):
        return other_values(reader, world)
    world.classes = (*CLASSES, 'bus')
    world.truth['b'].append(('bus', box(1, 1, 9, 9)))
    if reader.kind == 'folders':
        world.truth['b'] = world.truth['b'][1:]
    world.place = ('bus', *line_of(reader, 'b', 2))
    return None


def line_of(reader: Reader, stem: str, number: int) -> tuple[str, ...]:
    """Return what names an object: the file and the line, from 1, without the header of an xml."""
    if reader.kind == 'folders':
        return ('bus',)
    if reader.form in ('coco', 'samrs'):
        return ('.json',)
    return (f'{stem}{reader.suffix}, line {number + (reader.form in XML)}',)


def twice_in_config(reader: Reader, world: World) -> Answer:
    """Give a class twice in the config."""
    if reader.kind == 'pairs':
        return FIXED
    world.given, world.place = ('plane', 'small-vehicle', 'Plane'), ("'plane' and 'Plane'",)
    return None


def twice_in_labels(reader: Reader, world: World) -> Answer:
    """Give a class twice in the list of the labels."""
    if reader.kind in ('maps', 'pairs'):
        return 'the values have no list'
    if reader.kind == 'folders':
        world.images['c'] = world.images['a']
        world.truth['c'] = [('Plane', BOXES['a'])]
        return None
    if reader.form in ('coco', 'samrs', 'yolo'):
        world.classes = ('plane', 'small-vehicle', 'Plane')
        world.truth['b'].append(('Plane', box(1, 1, 9, 9)))
        if reader.form == 'samrs':
            world.place = ('.json',)
        return None
    return 'no list: each object has its class'


def missing_class(reader: Reader, world: World) -> Answer:
    """Give a class that has no object."""
    if reader.kind == 'pairs':
        return FIXED
    world.given = (*CLASSES, 'ship')
    return None


def no_comma(reader: Reader, world: World) -> Answer:
    """Give a text in place of a sequence of one class."""
    if reader.kind == 'pairs':
        return FIXED
    world.given, world.place = 'plane', ('comma',)
    return None


def small_head(reader: Reader, world: World) -> Answer:
    """Train a head of fewer classes than the data have."""
    world.check, world.place = True, ('num_classes',)
    return None


def id_twice(reader: Reader, world: World) -> Answer:
    """Give two images one id."""
    return edit_json(reader, world, lambda c: c['images'][1].update(id=0), ('.json', 'id 0'))


def edit_json(
    reader: Reader, world: World, edit: Callable[[dict], object], place: tuple[str, ...] = ()
) -> Answer:
    if reader.form not in ('coco', 'samrs'):
        return NO_IDS

    def change() -> None:
        path = world.root / (
            'labels/all.json' if reader.form == 'coco' else SOTA.instances.format(split='train')
        )
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    world.after.append(change)
    world.place = place
    return None


def name_twice(reader: Reader, world: World) -> Answer:
    """Give two images one name."""
    if reader.form in ('coco', 'samrs'):
        edit = lambda content: content['images'][1].update(file_name='a.png')  # noqa: E731
        return edit_json(reader, world, edit, ('.json', 'a.png'))
    if reader.kind == 'folders':
        return 'the class folder tells them apart'
    image = reader.image(world, 'a')
    world.after.append(lambda: shutil.copy(image, image.with_suffix('.jpg')))
    world.place = ('a.png', 'a.jpg')
    return None


def dots_and_spaces(reader: Reader, world: World) -> Answer:
    """Put dots and spaces into a name."""
    return rename(world, 'a.1 x')


def rename(world: World, name: str) -> Answer:
    for part in (world.images, world.truth):
        part[name] = part.pop('a')
    return None


def folders_below(reader: Reader, world: World) -> Answer:
    """Put an image into a folder below that of the images."""
    if reader.kind == 'boxes' and reader.form not in ('coco', 'samrs'):
        image = reader.image(world, 'a')
        below = image.parent / 'below' / image.name
        world.after += [lambda: below.parent.mkdir(), lambda: image.rename(below)]
        world.lost, world.place = (('a', -1),), (f'a{reader.suffix}',)
        return None
    if reader.form == 'samrs':
        return 'its layout has one folder'
    if reader.kind == 'folders':
        image = reader.image(world, 'a')
        below = image.parent / 'below' / image.name
        world.after += [lambda: below.parent.mkdir(), lambda: image.rename(below)]
        return None
    return rename(world, 'below/a')


def add_box(
    reader: Reader, world: World, corners: np.ndarray, lost: bool = False, named: bool = False
) -> Answer:
    """Add an object to the image b."""
    if reader.kind != 'boxes':
        return NO_BOXES
    world.truth['b'].append(('plane', corners))
    world.lost = (('b', 1),) if lost else ()
    if lost or named:
        world.place = ('.json, annotation 2',) if reader.form == 'coco' else (
            ('b.txt, line 2',) if reader.form == 'samrs' else line_of(reader, 'b', 2)
        )  # fmt: skip
    return None


def no_area(reader: Reader, world: World) -> Answer:
    """Add a box without area."""
    return add_box(reader, world, box(5, 5, 5, 20), lost=True)


def exchanged(reader: Reader, world: World) -> Answer:
    """Exchange two corners of a box; a rotated box is the same in any order."""
    upright = reader.form in ('coco', 'voc', 'yolo')
    answer = add_box(reader, world, box(50, 40, 20, 10), named=upright)
    if reader.form == 'samrs':
        return 'rotated boxes as in DOTA, boxes as in COCO'
    return answer


def not_finite(reader: Reader, world: World) -> Answer:
    """Add a box with NaN."""
    answer = add_box(reader, world, box(5, float('nan'), 20, 20), named=True)
    if reader.form == 'samrs':
        world.place = ('.json, annotation 2',)
    return answer


def outside(reader: Reader, world: World) -> Answer:
    """Add a box wholly outside of its image."""
    return add_box(reader, world, box(100, 5, 120, 20), lost=True)


def partly_outside(reader: Reader, world: World) -> Answer:
    """Add a box partly outside of its image."""
    return add_box(reader, world, box(80, 5, 110, 20))


def pixels(reader: Reader, world: World, changed: np.ndarray, suffix: str = '.png') -> Answer:
    """Give the images other pixels."""
    world.suffix = suffix
    world.images = dict.fromkeys(world.images, changed)
    if reader.form in ('coco', 'samrs') and suffix != '.png':
        edit_json(reader, world, lambda content: [
            image.update(file_name=Path(image['file_name']).stem + suffix)
            for image in content['images']
        ])  # fmt: skip
    return None


def deep(reader: Reader, world: World) -> Answer:
    """Give images of 16 bits."""
    pixels(reader, world, np.full(SIZE, 3000, np.uint16))
    world.place = ('a.png', 'LoadBands')
    return None


def four_bands(reader: Reader, world: World) -> Answer:
    """Give images of four bands, none of them alpha."""
    pixels(reader, world, np.full(SIZE, 9, np.uint8), '.tif')
    world.place = ('a.tif', 'LoadBands')

    def save() -> None:
        for folder in reader.images:
            for path in (world.root / folder).rglob('*.tif'):
                cv2.imwrite(str(path), np.full((*SIZE, 4), 9, np.uint8))

    world.after.append(save)
    return None


def alpha(reader: Reader, world: World) -> Answer:
    """Give images a fourth band that is marked as alpha."""
    return pixels(reader, world, np.full((*SIZE, 4), 90, np.uint8))


def palette(reader: Reader, world: World) -> Answer:
    """Give images with a palette."""

    def save() -> None:
        for folder in reader.images:
            for path in (world.root / folder).rglob('*.png'):
                with Image.open(path) as image:
                    image.convert('P').save(path)

    world.after.append(save)
    return None


def pixel_is_point(reader: Reader, world: World) -> Answer:
    """Give GeoTIFF whose coordinates are those of the pixels' centres."""
    pixels(reader, world, np.full((*SIZE, 3), 9, np.uint8), '.tif')
    keys = {34735: (1, 1, 0, 1, 1025, 0, 1, 2)}  # GTRasterTypeGeoKey

    def save() -> None:
        for folder in reader.images:
            for path in (world.root / folder).rglob('*.tif'):
                with Image.open(path) as image:
                    image.save(path, tiffinfo=keys)

    world.after.append(save)
    return None


def turned(reader: Reader, world: World) -> Answer:
    """Turn images by their EXIF orientation, labels as of the turned image."""

    def save() -> None:
        for folder in reader.images:
            for path in (world.root / folder).rglob('*.png'):
                image = Image.fromarray(np.full(SIZE[::-1], 9, np.uint8))
                exif = image.getexif()
                exif[0x0112] = 6
                image.save(path, exif=exif)

    world.after.append(save)
    if reader.kind in ('maps', 'pairs'):
        world.place = ('a.png', 'orientation')
    return None


def turned_later(reader: Reader, world: World) -> Answer:
    """Turn images by their EXIF orientation, labels as of the stored image."""
    if reader.kind == 'folders':
        return 'a class has no place'
    if reader.form in ('dota', 'yolo'):
        return 'its text has no size'
    if reader.form in XML:
        size = b'<annotation><size><width>96</width><height>64</height></size>'
        edit_file(reader, world, lambda data: data.replace(b'<annotation>', size))

    def save() -> None:
        for folder in reader.images:
            for path in (world.root / folder).rglob('*.png'):
                with Image.open(path) as image:
                    exif = image.getexif()
                    exif[0x0112] = 6
                    image.save(path, exif=exif)

    world.after.append(save)
    world.place = (f'a{reader.suffix}' if reader.form in XML else 'a.png',)
    return None


def beside(reader: Reader, world: World) -> Answer:
    """Put a world file and Thumbs.db beside the images."""
    folder = reader.image(world, 'a').parent

    def add() -> None:
        for name in ('a.pgw', 'Thumbs.db'):
            (folder / name).write_text('0.5')

    world.after.append(add)
    if reader.form not in ('coco', 'samrs'):
        world.place = ('a.pgw', 'Thumbs.db')
    return None


def edit_file(
    reader: Reader, world: World, edit: Callable[[bytes], bytes], place: str = ''
) -> Answer:
    """Change the bytes of the label file of the image a."""
    if reader.kind != 'boxes':
        return NO_TEXT

    def change() -> None:
        path = reader.file(world, 'a')
        path.write_bytes(edit(path.read_bytes()))

    world.after.append(change)
    world.place = (place,) if place else ()
    return None


def header(reader: Reader, world: World) -> Answer:
    """Begin a label file with DOTA's header."""
    if reader.form in XML or reader.form == 'coco':
        return 'its form has no such lines'
    lines = b'imagesource:GoogleEarth\ngsd:0.5\n'
    place = 'a.txt, line 1' if reader.form == 'yolo' else ''
    return edit_file(reader, world, lambda data: lines + data, place)


def byte_order_mark(reader: Reader, world: World) -> Answer:
    """Begin a label file with a byte order mark."""
    return edit_file(reader, world, lambda data: b'\xef\xbb\xbf' + data)


def carriage_returns(reader: Reader, world: World) -> Answer:
    """End lines with CRLF."""
    return edit_file(reader, world, lambda data: data.replace(b'\n', b'\r\n'))


def latin_1(reader: Reader, world: World) -> Answer:
    """Write a name in latin-1."""
    name = 'aéroport'
    if reader.kind != 'boxes':
        return NO_TEXT
    world.given = world.classes = (name, 'small-vehicle')
    world.truth['a'] = [(name, BOXES['a'])]
    if reader.form == 'yolo':
        path = world.root / 'labels' / 'classes.txt'
        world.place = ('classes.txt, line 1',)
        world.after.append(lambda: path.write_bytes(path.read_text().encode('latin-1')))
        return None
    place = {'coco': 'all.json, line 1'}.get(reader.form, f'a{reader.suffix}, line ')
    if reader.form == 'coco':
        write_name = lambda data: data.replace(b'a\\u00e9roport', 'aéroport'.encode('latin-1'))  # noqa: E731
    else:
        write_name = lambda data: data.decode().encode('latin-1')  # noqa: E731
    return edit_file(reader, world, write_name, place)


def declared(reader: Reader, world: World) -> Answer:
    """Write an xml in latin-1 that says so."""
    if reader.form not in XML:
        return 'no xml'
    latin_1(reader, world)
    world.place = ()
    path = reader.file(world, 'a')
    begin = b'<?xml version="1.0" encoding="ISO-8859-1"?>\n'
    world.after.append(lambda: path.write_bytes(begin + path.read_bytes()))
    return None


def no_objects(reader: Reader, world: World) -> Answer:
    """Label no object in any image, where these are left out of training."""
    if reader.kind != 'boxes':
        return NO_BOXES
    world.truth = dict(a=[], b=[])
    world.place = ('no image is left',) if reader.form != 'samrs' else ()
    return None


def no_images(reader: Reader, world: World) -> Answer:
    """Give folders without images."""

    def remove() -> None:
        for path in [*world.root.rglob('*.png')]:
            path.unlink()

    world.after.append(remove)
    world.place = (str(world.root),)
    return None


def no_label(reader: Reader, world: World) -> Answer:
    """Give an image without labels."""
    if reader.kind == 'folders':
        return 'an image lies in the folder of its class'
    if reader.form == 'coco':
        world.images['c'] = world.images['a']
        world.place = ('c.png',)
        world.lost = (('c', -1),)
        return unlisted(world)
    path = reader.file(world, 'a')
    world.after.append(lambda: path.unlink())
    world.place = ('a',) if reader.form in ('samrs', 'yolo') else (path.parent.name,)
    if reader.form == 'yolo':
        world.lost = (('a', -1),)
    return None


def unlisted(world: World) -> Answer:
    """Keep the image c out of the json."""
    world.truth['c'] = []

    def change() -> None:
        path = world.root / 'labels' / 'all.json'
        content = json.loads(path.read_text())
        content['images'] = [i for i in content['images'] if i['file_name'] != 'c.png']
        path.write_text(json.dumps(content))

    world.after.append(change)
    return None


def no_image(reader: Reader, world: World) -> Answer:
    """Give labels without their image."""
    if reader.kind == 'folders':
        return 'no labels but the folder'
    image = reader.image(world, 'a')
    world.after.append(lambda: image.unlink())
    if reader.kind == 'boxes' and reader.form not in ('coco', 'samrs'):
        world.lost, world.place = (('a', -1),), (f'a{reader.suffix}',)
    else:
        world.place = ('a',)
    return None


def hard(reader: Reader, world: World) -> Answer:
    """Label an object as difficult, or as a crowd."""
    if reader.form == 'coco':
        world.lost = ()
        return edit_json(reader, world, lambda c: c['annotations'][0].update(iscrowd=1))
    if reader.form == 'dota':
        return edit_file(reader, world, lambda data: data.replace(b'plane 0', b'plane 2'))
    if reader.form in ('voc', 'dior_r'):
        return edit_file(
            reader, world, lambda data: data.replace(b'<name>', b'<difficult>1</difficult><name>')
        )
    if reader.form == 'samrs':
        return 'rotated boxes as in DOTA, masks as in COCO'
    return 'its form has no such mark'


def maps_of(reader: Reader, world: World, save: Callable[[Path, str], None]) -> Answer:
    """Save other label maps."""
    if reader.form == 'samrs':
        folder = SOTA.semantic
    elif reader.kind in ('maps', 'pairs'):
        folder = reader.labels
    else:
        return NO_MAPS

    def change() -> None:
        for stem in world.images:
            save(world.root / folder / f'{stem}.png', stem)

    world.after.append(change)
    return None


def other_values(reader: Reader, world: World) -> Answer:
    """Give label maps of 1 and 2."""
    world.place = ('a.png', '2') if reader.form == 'samrs' else ('a.png', 'label_values={1: ')
    return maps_of(reader, world, lambda path, stem: save_map(path, stem, 1, 2))


def zero_and_255(reader: Reader, world: World) -> Answer:
    """Give label maps of 0 and 255."""
    if reader.form == 'samrs':
        return 'its layout: 255 is background'
    return maps_of(reader, world, lambda path, stem: save_map(path, stem, 0, 255))


def deep_maps(reader: Reader, world: World) -> Answer:
    """Give label maps of 16 bits, 0 and 1."""
    if reader.form == 'samrs':
        return 'its layout: 8 bits'
    return maps_of(reader, world, lambda path, stem: save_map(path, stem, 0, 1, np.uint16))


def coloured(reader: Reader, world: World) -> Answer:
    """Give label maps of RGB colours."""
    world.place = ('a.png',) if reader.form == 'samrs' else ('a.png', "label_values={'#000000': ")

    def save(path: Path, stem: str) -> None:
        values = values_of(stem, 0, 200).astype(np.uint8)
        Image.fromarray(np.stack([values, values * 0, values * 0], -1)).save(path)

    return maps_of(reader, world, save)


def palette_maps(reader: Reader, world: World) -> Answer:
    """Give label maps with a palette, indices 0 and 1."""
    if reader.form == 'samrs':
        return 'its layout: grey'

    def save(path: Path, stem: str) -> None:
        image = Image.fromarray(values_of(stem, 0, 1).astype(np.uint8))
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.save(path)

    return maps_of(reader, world, save)


def jpeg_maps(reader: Reader, world: World) -> Answer:
    """Give label maps in JPEG, 0 and 255."""
    if reader.form == 'samrs':
        return 'its layout: PNG'

    def save(path: Path, stem: str) -> None:
        path.unlink()
        save_map(path.with_suffix('.jpg'), stem, 0, 255)

    return maps_of(reader, world, save)


def other_size(reader: Reader, world: World) -> Answer:
    """Give labels of an image of another size."""
    if reader.form == 'coco':
        return edit_json(reader, world, lambda c: c['images'][0].update(height=40), ('a.png',))
    if reader.form in XML:
        size = b'<annotation><size><width>96</width><height>40</height></size>'
        return edit_file(
            reader, world, lambda data: data.replace(b'<annotation>', size), f'a{reader.suffix}'
        )
    if reader.kind == 'boxes' and reader.form != 'samrs':
        return 'its text has no size'
    if reader.kind == 'folders':
        return 'a class has no size'
    world.place = ('a.png',)
    small = Image.fromarray(np.zeros((9, 9), np.uint8))
    return maps_of(reader, world, lambda path, stem: small.save(path))


def not_a_number(reader: Reader, world: World) -> Answer:
    """Give label maps of floats with NaN."""
    if reader.form == 'samrs':
        return 'its layout: PNG'
    world.ignored = SIZE[1]

    def save(path: Path, stem: str) -> None:
        path.unlink()
        values = values_of(stem, 0, 1).astype(np.float32)
        values[0] = np.nan
        Image.fromarray(values).save(path.with_suffix('.tif'))

    return maps_of(reader, world, save)


def nothing_found(reader: Reader, world: World) -> Answer:
    """Evaluate a model that finds nothing: the same figures, 0."""
    if reader.form == 'samrs':
        return 'figures as of COCO and DOTA'
    if reader.kind != 'boxes':
        return 'a model always answers'
    world.silent = True
    return None


def evaluate_nothing(dataset: Any) -> dict[str, float]:
    """Return the figures of a model that finds nothing."""
    rotated = len(dataset.get_data_info(0)['instances'][0]['bbox']) == 8
    metric = RotatedMetric() if rotated else DetectionMetric()
    metric.dataset_meta = dataset.metainfo
    nothing = dict(
        bboxes=torch.zeros(0, 5 if rotated else 4),
        scores=torch.zeros(0),
        labels=torch.zeros(0, dtype=torch.int64),
    )
    for index in range(len(dataset)):
        record = dataset.get_data_info(index)
        boxes = torch.tensor([each['bbox'] for each in record['instances']], dtype=torch.float)
        if rotated:
            boxes = QuadriBoxes(boxes).convert_to('rbox').tensor
        labels = torch.tensor([each['bbox_label'] for each in record['instances']])
        truth = dict(bboxes=boxes, labels=labels)
        empty = dict(bboxes=boxes[:0], labels=labels[:0])
        sample = dict(record, pred_instances=nothing, gt_instances=truth, ignored_instances=empty)
        metric.process({}, [sample])
    return metric.evaluate(len(dataset))


TROUBLES: dict[str, Callable[[Reader, World], Answer]] = {
    'a class in another case, `_` for a space': spelling,
    'an unknown class': unknown_class,
    'a class twice in the config': twice_in_config,
    'a class twice in the labels': twice_in_labels,
    'a class without objects': missing_class,
    'one class without a comma': no_comma,
    'more classes than the head': small_head,
    'an image id twice': id_twice,
    'a file name twice': name_twice,
    'dots and spaces in names': dots_and_spaces,
    'images in folders below': folders_below,
    'a box without area': no_area,
    'corners exchanged': exchanged,
    'a coordinate not finite': not_finite,
    'a box outside of its image': outside,
    'a box partly outside': partly_outside,
    'difficult, crowd': hard,
    'images of 16 bits': deep,
    'images of 4 bands': four_bands,
    'images with alpha': alpha,
    'images with a palette': palette,
    'images turned by EXIF': turned,
    'the same, labels of the stored image': turned_later,
    'GeoTIFF, pixel is point': pixel_is_point,
    'files beside the images': beside,
    'an image without labels': no_label,
    'labels without an image': no_image,
    'labels of another size': other_size,
    "DOTA's header": header,
    'a byte order mark': byte_order_mark,
    'CRLF': carriage_returns,
    'latin-1': latin_1,
    'latin-1, declared': declared,
    'no objects in any image': no_objects,
    'no images': no_images,
    'label values 1 and 2': other_values,
    'label values 0 and 255': zero_and_255,
    'label maps of 16 bits': deep_maps,
    'label maps in colours': coloured,
    'label maps with a palette': palette_maps,
    'label maps in JPEG': jpeg_maps,
    'label maps with NaN': not_a_number,
    'nothing found by the model': nothing_found,
}


def try_row(trouble: str, folder: Path) -> dict[str, str]:
    """Return the cells of a row, tried in folders below the given one."""
    return {
        name: outcome(reader, TROUBLES[trouble], folder / name.replace(' ', '_'))
        for name, reader in READERS.items()
    }


def line(trouble: str, cells: Mapping[str, str]) -> str:
    """Return a row of the table for the docs."""
    return f'| {trouble} | {" | ".join(cells.values())} |'


def table() -> str:
    """Return the table for the docs."""
    lines = [f'| | {" | ".join(READERS)} |', f'| --- |{" --- |" * len(READERS)}']
    for trouble in TROUBLES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(line(trouble, try_row(trouble, Path(folder))))
    return '\n'.join(lines)


def filled(page: str) -> str:
    """Return the page of the docs with the table of today."""
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f'{page[:begin]}\n\n{table()}\n\n{page[end:]}'


if __name__ == '__main__':
    gc.freeze()  # each data set collects the garbage
    text = filled(PAGE.read_text())
    print(text[text.index(BEGIN) :])
    PAGE.write_text(text)
