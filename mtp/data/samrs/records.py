"""SAMRS: one image, three kinds of labels, in the layout that its authors distribute."""
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmrotate.structures import QuadriBoxes

from mtp.data.index import Entry, cached_index
from mtp.data.rotated_labels import CORNER_TAGS as CORNER_TAGS  # its place in earlier versions
from mtp.data.rotated_labels import read_rotated
from mtp.data.run_lengths import encode_mask
from mtp.data.samrs.subsets import PALETTE, SUBSETS
from mtp.registry import DATASETS

TASKS = ('semantic', 'instance', 'rotated')


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
