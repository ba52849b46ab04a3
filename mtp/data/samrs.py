"""SAMRS: one image, three kinds of labels, in the layout that its authors distribute."""
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mmengine.dataset import BaseDataset

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

    An item holds paths, ``instances`` (boxes xyxy in pixels, labels, masks as COCO stores them,
    ``ignore_flag`` for crowds) and ``rotated_instances`` (four corners in pixels, labels), which
    are read from their file when the item is asked for.

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
        ValueError: an unknown subset or task; in the labels an unknown class.
        FileNotFoundError: the root or the json is missing.
    """

    def __init__(self, subset: str, data_root: str, split: str = 'train',
                 classes: Sequence[str] | None = None, name: str | None = None,
                 tasks: Sequence[str] = TASKS, pipeline: Sequence = (),
                 test_mode: bool = False) -> None:
        if subset not in SUBSETS:
            raise ValueError(f'SAMRS has no subset {subset!r}: choose of {", ".join(SUBSETS)}')
        if not tasks or not set(tasks) <= set(TASKS):
            raise ValueError(f'tasks={tasks!r}: give one or more of {", ".join(TASKS)}')
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
            metainfo=dict(classes=classes, tasks=tuple(tasks),
                          palette=[PALETTE[i % len(PALETTE)] for i in range(len(classes))]),
            pipeline=list(pipeline), test_mode=test_mode, lazy_init=True)
        # mmengine would take a string among the metainfo for the name of a file
        self._metainfo['name'] = name or subset
        self.full_init()

    def load_data_list(self) -> list[dict]:
        """Read the COCO json into one record per image, in the json's order."""
        path = Path(self.ann_file)
        if not path.is_file():
            raise FileNotFoundError(f'no {path}: make it with `python tools/data/samrs_to_coco.py '
                                    f'{self.root.parent}`')
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
        common = dict(dataset=self.metainfo['name'], tasks=self.metainfo['tasks'],
                      num_classes=len(self.labels))
        return [dict(common, **self._record(image, annotations[image['id']], names))
                for image in coco['images']]

    def _record(self, image: dict, annotations: list[dict], names: dict[int, str]) -> dict:
        stem = Path(image['file_name']).stem
        return dict(
            img_id=image['id'],
            img_path=str(self.root / self.subset.images / image['file_name']),
            height=image['height'], width=image['width'],
            seg_map_path=str(self.root / self.subset.semantic / f'{stem}.png'),
            rotated_path=str(self.root / self.subset.rotated / (stem + self.subset.rotated_suffix)),
            instances=[dict(bbox=box, bbox_label=self.labels[names[annotation['category_id']]],
                            mask=annotation['segmentation'],
                            ignore_flag=int(annotation.get('iscrowd', 0)))
                       for annotation in annotations
                       if (box := _visible_box(annotation, image)) is not None])

    def get_data_info(self, idx: int) -> dict:
        """The record of an image, rotated boxes read from their file."""
        info = super().get_data_info(idx)
        path = info.pop('rotated_path')
        if 'rotated' in info['tasks']:
            info['rotated_instances'] = read_rotated(path, self.labels)
        return info


def _visible_box(annotation: dict, image: dict) -> list[float] | None:
    """Box xyxy of an annotation; None where it lies outside the image or has no extent."""
    x, y, w, h = annotation['bbox']
    overlap_w = min(x + w, image['width']) - max(x, 0)
    overlap_h = min(y + h, image['height']) - max(y, 0)
    if overlap_w <= 0 or overlap_h <= 0 or annotation['area'] <= 0 or w < 1 or h < 1:
        return None
    return [x, y, x + w, y + h]


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
