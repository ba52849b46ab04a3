"""Reader of SAMRS (images with three kinds of labels) in the layout of its publisher."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.dataset import BaseDataset

from mtp.data.class_names import ClassNames
from mtp.data.coco_objects import (
    by_image,
    check_stems,
    count_objects,
    match_categories,
    take_objects,
)
from mtp.data.index import Column, Entry, cached_index
from mtp.data.label_files import read_coco
from mtp.data.samrs.subsets import PALETTE, SUBSETS
from mtp.data.tally import Tally
from mtp.data.values import check_boxes
from mtp.files import UnusableFileError
from mtp.registry import DATASETS
from mtp.sample_fields import Label, find_labels

TASKS = ('semantic', 'instance', 'rotated')


@DATASETS.register_module()
class SAMRSDataset(BaseDataset):
    """A subset of SAMRS, or other data in its layout.

    A record holds ``img_path``, the paths of label files, ``height``, ``width`` and ``labels``, an
    :class:`mtp.data.index.Entry`. The entry is read from an index of all labels on disk that every
    process and worker maps into memory. The index is built on first use and whenever a label
    changes. What is left out is counted in ``tally``, which the index keeps.

    Args:
        subset: name of the layout: ``'sota'``, ``'sior'`` or ``'fast'``.
        data_root: root folder of the subset, e.g. ``data/samrs/SOTA``.
        split: name of the split, ``'train'`` or ``'valid'``.
        classes: class names in label order; None for the subset's own.
        name: name of the data set in the model and the metrics; None for ``subset``.
        tasks: labels to use: names of tasks, or configs of their rows in the table of labels
            (:class:`mtp.sample_fields.Label`).
        masks: whether the objects of the json have masks. Without, a box stands for its mask, and
            the model's ``datasets`` say ``masks=False``, too.
        pipeline: transforms of an item.
        test_mode: test mode, as in mmengine.

    Raises:
        ValueError: the subset or a task is unknown; the labels have an unknown class, or an entry
            or a line that cannot be read; semantic maps would show other classes.
        FileNotFoundError: the root, the json or a rotated-box file is missing.
    """

    _fully_initialized: bool  # mmengine sets it

    def __init__(
        self,
        subset: str,
        data_root: str,
        split: str = 'train',
        classes: Sequence[str] | None = None,
        name: str | None = None,
        tasks: Sequence[str | dict] = TASKS,
        masks: bool = True,
        pipeline: Sequence = (),
        test_mode: bool = False,
    ) -> None:
        if subset not in SUBSETS:
            raise ValueError(f'SAMRS has no subset {subset!r}: choose one of {", ".join(SUBSETS)}')
        self.rows = find_labels(tasks)
        self.subset = SUBSETS[subset]
        self.masks = masks
        self.tally = Tally()
        given = classes or self.subset.classes
        # a text stays one, to be refused; the keys of a dict are names
        self.names = ClassNames(given if isinstance(given, str) else tuple(given), self.tally)
        classes = self.names.classes
        self.labels = {label: i for i, label in enumerate(classes)}
        root = Path(data_root)
        if not root.is_dir():
            raise FileNotFoundError(
                f'no folder {root}: it should hold the {subset.upper()} subset '
                'of SAMRS; see docs/pretraining.md for the layout'
            )
        self.root = root
        super().__init__(
            ann_file=str(root / self.subset.instances.format(split=split)),
            metainfo=dict(
                classes=classes,
                tasks=tuple(row.task for row in self.rows),
                palette=palette(len(classes)),
                **({} if masks else dict(masks=False)),
            ),
            pipeline=list(pipeline),
            test_mode=test_mode,
            lazy_init=True,
        )
        # mmengine would treat a string in the metainfo as the name of a file
        self._metainfo['name'] = name or subset
        self.full_init()

    def full_init(self) -> None:
        """Open the index of the labels; build it first if it is missing or out of date."""
        if self._fully_initialized:
            return
        path = Path(self.ann_file)
        if not path.is_file():
            raise FileNotFoundError(
                f'no {path}: make it with `mtp data samrs-to-coco {self.root.parent}`'
            )
        sources = [path, *(source for row in self.rows for source in row.sources(self))]
        # the order of the categories is checked for semantic maps only
        checked = [row.task for row in self.rows if row.task == 'semantic']
        further = [row.task for row in self.rows if row.columns and row.task not in TASKS]
        boxes = [] if self.masks else ['boxes']
        self.index = cached_index(
            self.root,
            (path.name, tuple(self.labels), len(sources), *checked, *further, *boxes),
            sources,
            index_columns(self.rows),
            lambda: self._entries(path),
            self.tally,
        )
        self.tally = self.index.tally
        self._fully_initialized = True

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.index)

    def get_data_info(self, idx: int) -> dict:
        """Return the record of an image."""
        entry = self.index[idx]
        stem = Path(entry.file_name).stem
        return dict(
            dataset=self._metainfo['name'],
            tasks=self._metainfo['tasks'],
            num_classes=len(self.labels),
            sample_idx=idx,
            img_id=entry.img_id,
            img_path=str(self.root / self.subset.images / entry.file_name),
            height=entry.size[0],
            width=entry.size[1],
            labels=entry,
            **{key: path for row in self.rows for key, path in row.paths(self, stem).items()},
        )

    def _entries(self, path: Path) -> Iterator[Entry]:
        """Yield the labels of each image in the json's order, from it and other label files."""
        coco = read_coco(path)
        check_boxes(coco['annotations'], path)
        check_stems(coco['images'], path)
        objects = by_image(coco, path)
        labels = match_categories(coco, self.names, path, self.tally)
        if 'semantic' in self._metainfo['tasks']:
            self._check_order(labels, path)
        # The index holds the json's objects even if they are not used: the json is read anyway.
        rows = find_labels(dict.fromkeys(('instance', *self._metainfo['tasks'])))
        numbered = all(type(i['id']) is int and abs(i['id']) < 2**63 for i in coco['images'])
        self.tally.add(Tally(objects=0))
        for number, image in enumerate(coco['images']):
            chosen = [
                dict(a, label=labels[a['category_id']])
                for a in take_objects(image, objects[image['id']], path, self.tally)
            ]
            self.tally.add(
                count_objects(
                    [a['label'] for a in chosen], [a.get('iscrowd', 0) for a in chosen], self.names
                )
            )
            yield Entry(
                img_id=image['id'] if numbered else number,
                file_name=image['file_name'],
                size=(image['height'], image['width']),
                **{
                    name: values
                    for row in rows
                    for name, values in row.read(self, image, chosen).items()
                },
            )

    def _check_order(self, labels: dict[int | str, int], path: Path) -> None:
        """Refuse categories in another order than the classes: label maps hold their numbers."""
        in_order = list(range(len(labels)))
        by_id = [labels[number] for number in sorted(labels)]
        if list(labels.values()) != list(labels) and by_id != in_order:
            given = ', '.join(f'{i}: {self.names.classes[labels[i]]}' for i in sorted(labels))
            raise UnusableFileError(
                f'{path}: its categories ({given:.200}) are not in the order of the classes '
                f'({", ".join(self.names.classes):.200}), so that the values of the semantic maps '
                'would be other classes: give `classes` in that order, each name once'
            )


def index_columns(rows: Sequence[Label]) -> dict[str, Column]:
    """Return the columns of an index: those of the labels of SAMRS, and those of ``rows``."""
    return {
        name: column for row in (*find_labels(TASKS), *rows) for name, column in row.columns.items()
    }


def palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Return a colour (RGB) per class."""
    return [PALETTE[i % len(PALETTE)] for i in range(num_classes)]
