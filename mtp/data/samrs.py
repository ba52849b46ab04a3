"""SAMRS: one image, three kinds of labels, in the layout that its authors distribute."""
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmrotate.structures import QuadriBoxes

from mtp.data.index import Entry, cached_index
from mtp.data.runs import encode_mask
from mtp.registry import DATASETS

TASKS = ('semantic', 'instance', 'rotated')


@dataclass(frozen=True)
class Subset:
    """Where a subset of SAMRS keeps what, below its own root, and its classes in label order."""
    images: str
    semantic: str
    masks: str
    instances: str
    rotated: str
    rotated_suffix: str
    classes: tuple[str, ...]


def _split(names: str) -> tuple[str, ...]:
    return tuple(names.split())


SUBSETS = {
    'sota': Subset(
        images='trainval/images', semantic='trainval/rhbox_segs_init/gray',
        masks='trainval/rhbox_segs_init/ins',
        instances='trainval/sota_rbb_{split}_ins_segmentation.json',
        rotated='trainval/rbbtxts', rotated_suffix='.txt', classes=_split(
            'large-vehicle swimming-pool helicopter bridge plane ship soccer-ball-field '
            'basketball-court ground-track-field small-vehicle baseball-diamond tennis-court '
            'roundabout storage-tank harbor container-crane airport helipad')),
    'sior': Subset(
        images='JPEGImages-trainval', semantic='hbox_segs_trainvaltest_init/gray',
        masks='hbox_segs_trainvaltest_init/ins', instances='sior_{split}_ins_segmentation.json',
        rotated='Annotations/Oriented Bounding Boxes', rotated_suffix='.xml', classes=_split(
            'airplane airport baseballfield basketballcourt bridge chimney '
            'expressway-service-area expressway-toll-station dam golffield groundtrackfield '
            'harbor overpass ship stadium storagetank tenniscourt trainstation vehicle windmill')),
    'fast': Subset(
        images='trainval/images', semantic='trainval/rhbox_segs_init/gray',
        masks='trainval/rhbox_segs_init/ins',
        instances='trainval/fast_{split}_ins_segmentation.json',
        rotated='trainval/rbbtxts', rotated_suffix='.txt', classes=_split(
            'A220 A321 A330 A350 ARJ21 Baseball-Field Basketball-Court Boeing737 Boeing747 '
            'Boeing777 Boeing787 Bridge Bus C919 Cargo-Truck Dry-Cargo-Ship Dump-Truck '
            'Engineering-Ship Excavator Fishing-Boat Football-Field Intersection '
            'Liquid-Cargo-Ship Motorboat other-airplane other-ship other-vehicle Passenger-Ship '
            'Roundabout Small-Car Tennis-Court Tractor Trailer Truck-Tractor Tugboat Van '
            'Warship')),
}

# One list for all subsets; each takes as many colours (RGB) as it has classes.
PALETTE = (
    (0, 127, 255), (0, 63, 0), (0, 127, 63), (0, 63, 255), (0, 0, 127), (0, 127, 127), (0, 0, 63),
    (0, 63, 127), (0, 63, 191), (0, 191, 127), (0, 127, 191), (0, 63, 63), (0, 100, 155),
    (0, 0, 255), (0, 0, 191), (64, 191, 127), (64, 0, 191), (128, 63, 63), (128, 0, 63),
    (191, 63, 0), (255, 127, 0), (63, 0, 0), (127, 63, 0), (63, 255, 0), (0, 127, 0),
    (127, 127, 0), (63, 0, 63), (63, 127, 0), (63, 191, 0), (191, 127, 0), (127, 191, 0),
    (63, 63, 0), (100, 155, 0), (0, 255, 0), (0, 191, 0), (191, 127, 64), (0, 191, 64))


@DATASETS.register_module()
class SAMRSDataset(BaseDataset):
    """A subset of SAMRS, or other data in its layout.

    A record holds ``img_path``, ``seg_map_path``, ``height``, ``width`` and ``labels``, an
    :class:`mtp.data.index.Entry`: it is read from an index of all labels on disk that every
    process and worker maps into memory, made on first use and again when a label changes.

    Args:
        subset: whose layout: ``'sota'``, ``'sior'`` or ``'fast'``.
        data_root: root of the subset, e.g. ``data/samrs/SOTA``.
        split: ``'train'`` or ``'valid'``.
        classes: class names in label order; None for the subset's own.
        name: what the data set is called in the model and the metrics; None for ``subset``.
        tasks: labels to use.
        pipeline: transforms of an item.
        test_mode: as in mmengine.

    Raises:
        ValueError: an unknown subset or task; in the labels an unknown class or a line that cannot
            be read.
        FileNotFoundError: the root, the json or a file of rotated boxes is missing.
    """

    def __init__(self, subset: str, data_root: str, split: str = 'train',
                 classes: Sequence[str] | None = None, name: str | None = None,
                 tasks: Sequence[str] = TASKS, pipeline: Sequence = (),
                 test_mode: bool = False) -> None:
        if subset not in SUBSETS:
            raise ValueError(f'SAMRS has no subset {subset!r}: choose of {", ".join(SUBSETS)}')
        check_tasks(tasks)
        self.subset = SUBSETS[subset]
        classes = tuple(classes or self.subset.classes)
        self.labels = {label: i for i, label in enumerate(classes)}
        root = Path(data_root)
        if not root.is_dir():
            raise FileNotFoundError(f'no folder {root}: it should hold the {subset.upper()} subset '
                                    'of SAMRS; see docs/pretraining.md for the layout')
        self.root = root
        super().__init__(
            ann_file=str(root / self.subset.instances.format(split=split)),
            metainfo=dict(classes=classes, tasks=tuple(tasks), palette=palette(len(classes))),
            pipeline=list(pipeline), test_mode=test_mode, lazy_init=True)
        # mmengine would take a string among the metainfo for the name of a file
        self._metainfo['name'] = name or subset
        self.full_init()

    def full_init(self) -> None:
        """Open the index of the labels; make it first where there is none of today's labels."""
        if self._fully_initialized:
            return
        path = Path(self.ann_file)
        if not path.is_file():
            raise FileNotFoundError(f'no {path}: make it with `python tools/data/samrs_to_coco.py '
                                    f'{self.root.parent}`')
        sources = [path]
        if 'rotated' in self._metainfo['tasks']:
            sources.append(self.root / self.subset.rotated)
        self.index = cached_index(self.root, (path.name, tuple(self.labels), len(sources)), sources,
                                  lambda: self._entries(path))
        self._fully_initialized = True

    def __len__(self) -> int:
        """Number of images."""
        return len(self.index)

    def get_data_info(self, idx: int) -> dict:
        """The record of an image."""
        entry = self.index[idx]
        stem = Path(entry.file_name).stem
        return dict(
            dataset=self._metainfo['name'], tasks=self._metainfo['tasks'],
            num_classes=len(self.labels), sample_idx=idx, img_id=entry.img_id,
            img_path=str(self.root / self.subset.images / entry.file_name),
            seg_map_path=str(self.root / self.subset.semantic / f'{stem}.png'),
            height=entry.size[0], width=entry.size[1], labels=entry)

    def _entries(self, path: Path) -> Iterator[Entry]:
        """The labels in the json's order, from it and the files of rotated boxes."""
        with open(path) as file:
            coco = json.load(file)
        names = {category['id']: category['name'] for category in coco['categories']}
        unknown = set(names.values()) - set(self.labels)
        if unknown:
            raise ValueError(f'{path} has the categories {sorted(unknown)}, which are not among '
                             f'the classes {list(self.labels)}: set `classes` of the data set')
        annotations = defaultdict(list)
        for annotation in coco['annotations']:
            annotations[annotation['image_id']].append(annotation)
        for image in coco['images']:
            size = image['height'], image['width']
            chosen = [a for a in annotations[image['id']] if _visible(a, image)]
            rotated = []
            if 'rotated' in self._metainfo['tasks']:
                name = Path(image['file_name']).stem + self.subset.rotated_suffix
                rotated = read_rotated(self.root / self.subset.rotated / name, self.labels)
            yield Entry(
                img_id=image['id'], file_name=image['file_name'], size=size,
                boxes=np.array([_xyxy(a['bbox']) for a in chosen], np.float32).reshape(-1, 4),
                labels=np.array([self.labels[names[a['category_id']]] for a in chosen], np.int64),
                crowd=np.array([a.get('iscrowd', 0) for a in chosen], bool),
                counts=[_counts(a, image) for a in chosen],
                rotated=to_rotated([box['bbox'] for box in rotated]),
                rotated_labels=np.array([box['bbox_label'] for box in rotated], np.int64))


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise ValueError unless ``tasks`` names one or more of ``TASKS``."""
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f'tasks={tasks!r}: give one or more of {", ".join(TASKS)}')


def palette(num_classes: int) -> list[tuple[int, int, int]]:
    """A colour (RGB) per class."""
    return [PALETTE[i % len(PALETTE)] for i in range(num_classes)]


def to_rotated(corners: Sequence[Sequence[float]]) -> np.ndarray:
    """Four corners (8 numbers, pixels) -> the smallest rotated box around each, float32 ``(n, 5)``.
    """
    quads = torch.tensor(corners, dtype=torch.float32).reshape(-1, 8)
    return QuadriBoxes(quads).convert_to('rbox').tensor.reshape(-1, 5).numpy()


def _counts(annotation: dict, image: dict) -> bytes:
    """Compressed run lengths of an annotation's mask."""
    mask = encode_mask(annotation['segmentation'], image['height'], image['width'])
    if list(mask['size']) != [image['height'], image['width']]:
        raise ValueError(f'annotation {annotation["id"]}: its mask is for an image of size '
                         f'{mask["size"]}, but {image["file_name"]} has '
                         f'{[image["height"], image["width"]]}')
    counts = mask['counts']
    return counts.encode() if isinstance(counts, str) else counts


def _xyxy(box: Sequence[float]) -> tuple[float, ...]:
    x, y, w, h = box
    return x, y, x + w, y + h


def _visible(annotation: dict, image: dict) -> bool:
    """Whether an annotation has an extent, and some of it inside the image."""
    x, y, w, h = annotation['bbox']
    overlap_w = min(x + w, image['width']) - max(x, 0)
    overlap_h = min(y + h, image['height']) - max(y, 0)
    return overlap_w > 0 and overlap_h > 0 and annotation['area'] > 0 and w >= 1 and h >= 1


def read_rotated(path: str | Path, labels: dict[str, int]) -> list[dict]:
    """Read the rotated boxes of an image, from DOTA text or DIOR-R xml.

    Boxes with two equal adjacent corners are left out: they have no area.

    Args:
        path: ``.txt`` or ``.xml``.
        labels: class name -> label.

    Returns:
        list[dict]: ``bbox`` (8 numbers, corners in pixels) and ``bbox_label``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a class that is not among ``labels``, or a line that cannot be read; says where.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no rotated boxes at {path}: restore the file, or leave '
                                "'rotated' out of the data set's tasks")
    read = _read_xml if path.suffix == '.xml' else _read_dota
    boxes = []
    for place, name, corners in read(path):
        if name not in labels:
            raise ValueError(f'{path}, {place}: unknown class {name!r}; known are {list(labels)}')
        points = [corners[i:i + 2] for i in range(0, 8, 2)]
        if all(points[i] != points[i - 1] for i in range(4)):
            boxes.append(dict(bbox=corners, bbox_label=labels[name]))
    return boxes


def _read_dota(path: Path) -> Iterator[tuple[str, str, list[float]]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith(('imagesource', 'gsd')):
            continue
        try:
            corners, name = [float(field) for field in fields[:8]], fields[8]
        except (ValueError, IndexError):
            raise ValueError(f'{path}, line {number}: {line!r} is not of the form "x1 y1 x2 y2 x3 '
                             'y3 x4 y4 class difficulty"') from None
        yield f'line {number}', name, corners


CORNER_TAGS = ('x_left_top', 'y_left_top', 'x_right_top', 'y_right_top', 'x_right_bottom',
            'y_right_bottom', 'x_left_bottom', 'y_left_bottom')


def _read_xml(path: Path) -> Iterator[tuple[str, str, list[float]]]:
    try:
        objects = ElementTree.parse(path).getroot().findall('object')
    except ElementTree.ParseError as error:
        raise ValueError(f'{path} is no valid xml: {error}') from error
    for number, obj in enumerate(objects, 1):
        name, box = obj.findtext('name'), obj.find('robndbox')
        corners = [None if box is None else box.findtext(tag) for tag in CORNER_TAGS]
        if name is None or None in corners:
            raise ValueError(f'{path}, object {number}: it lacks a name or a corner of robndbox '
                             f'({", ".join(CORNER_TAGS)})')
        yield f'object {number}', name.lower(), [float(corner) for corner in corners]
