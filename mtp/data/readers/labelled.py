"""Readers of mmpretrain's and mmseg's labels, with errors that name the file and its fault."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmpretrain.datasets import CustomDataset
from mmseg.datasets.transforms import LoadAnnotations

from mtp.data.class_names import ClassNames, check_classes, merge_names
from mtp.data.datasets import DATASETS
from mtp.data.decoding import check_file, check_unturned, naming_faults, read_deep, read_nodata
from mtp.data.image_files import LOOKED_FOR, find_images, holds_images, is_hidden, is_image
from mtp.data.label_files import read_lines
from mtp.data.tally import Tally
from mtp.data.values import check_map_values, check_name
from mtp.files import UnusableFileError
from mtp.registry import DATASETS as REGISTRY
from mtp.registry import TRANSFORMS
from mtp.sample_fields import IGNORED


@REGISTRY.register_module()
class SceneDataset(CustomDataset):
    """mmpretrain's ``CustomDataset`` with folders named after the classes, or a list.

    A line of the list is ``<image, below data_prefix> <label, from 0>``. Without ``dataset`` and
    ``classes``, the classes are the folders of all splits, sorted: those of ``data_prefix`` and of
    the folders beside it. A class so has one label in all splits.

    Args:
        dataset: key of :data:`mtp.data.datasets.DATASETS`, for the classes.
        classes: names in label order, for data of one's own.
        kwargs: further arguments, as in mmpretrain.

    Attributes:
        tally: counts of what was read and left out.

    Raises:
        FileNotFoundError: the list or the folder is missing.
        ValueError: a folder is no class, there are no images, a line has another form, or the list
            is empty.
    """

    def __init__(
        self, dataset: str | None = None, classes: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        if dataset is not None:
            classes = DATASETS[dataset].classes
        elif classes is not None:
            classes = check_classes(classes)  # mmpretrain takes a text for a file
        self._known = dataset is not None
        self.tally = Tally()
        super().__init__(classes=classes, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load the records of the list, or of the folders as in mmpretrain."""
        self.tally = Tally()
        if self.ann_file:
            # mmpretrain splits lines at other characters than the check of them would.
            records = list(self._read_list(Path(self.ann_file)))
        else:
            records = super().load_data_list()
        self.tally.images = len(records)
        self.tally.of_class.update(self.CLASSES[record['gt_label']] for record in records)
        return records

    def _read_list(self, path: Path) -> Iterator[dict]:
        if self.CLASSES is None:
            raise ValueError(
                f'{path}: a list of images needs the names of the classes: set classes'
            )
        if not path.is_file():
            raise FileNotFoundError(f'no list of images at {path}: make it with `mtp data prepare`')
        lines = list(read_lines(path))
        if not lines:
            raise ValueError(f'{path} lists no image: make it again with `mtp data prepare`')
        for place, line in lines:
            image, _, label = line.strip().rpartition(' ')
            check_name(image or '?', place)
            number = int(label) if label.isdecimal() and len(label) < 9 else -1
            if not image or not 0 <= number < len(self.CLASSES):
                raise ValueError(
                    f'{place}: {line!r:.200} is not "<image> <label>" with a '
                    f'label of 0 to {len(self.CLASSES) - 1}'
                )
            yield dict(img_path=os.path.join(self.img_prefix, image), gt_label=number)

    def _find_samples(self) -> list[tuple[str, int]]:
        """Return path below ``data_prefix`` and label of each image, in the order of the paths."""
        root = Path(self.img_prefix)
        if not root.is_dir():
            raise FileNotFoundError(f'no folder {root}: make it with `mtp data prepare`')
        if self.CLASSES is None:
            self._metainfo['classes'] = self._find_classes(root)
        names = ClassNames(self.CLASSES, self.tally)
        folders = self._class_folders(root, names)
        samples: list[tuple[str, int]] = []
        empty: list[str] = []
        for folder in folders:
            images = find_images(folder, self.tally)
            label = names.label(folder.name, str(folder))
            samples += [(str(path.relative_to(root)), label) for path in images]
            empty += [] if images else [folder.name]
        if not samples:
            raise UnusableFileError(
                f'no images in the folders of {root}: looked for {LOOKED_FOR} in '
                f'<class>/ ({", ".join(folder.name for folder in folders[:5]) or "no folders"})'
            )
        there = {label for _, label in samples}
        for label, name in enumerate(names.classes):
            if label not in there:
                how = 'is empty' if name in empty else 'is missing'
                self.tally.note(f'{root}: the folder of the class {name!r} {how}')
        return samples

    def _find_classes(self, root: Path) -> tuple[str, ...]:
        """Return the names of the class folders of all splits."""
        if self.data_root and root == Path(self.data_root):
            raise ValueError(
                f'{root}: splits must number their classes alike: set data_root to the folder '
                'above the splits and data_prefix to the split, or give classes'
            )
        splits = [path for path in root.parent.iterdir() if path == root or _is_split(path)]
        return merge_names(path.name for split in splits for path in _folders(split))

    def _class_folders(self, root: Path, names: ClassNames) -> list[Path]:
        """Return the folders of a split that are classes; count what else is there."""
        for path in sorted(root.iterdir()):
            if path.is_dir() and is_hidden(path.name):
                self.tally.leave_out('hidden folders', str(path))
            elif not path.is_dir():
                kind = 'images outside' if is_image(path.name) else 'files outside'
                self.tally.leave_out(f'{kind} of the class folders', str(path))
        folders = _folders(root)
        found = {names.find(path.name) for path in folders}
        missing = [name for label, name in enumerate(names.classes) if label not in found]
        unknown = [path.name for path in folders if names.find(path.name) is None]
        if unknown or (self._known and missing):
            raise ValueError(
                f'{root} must have one folder per class: missing are '
                f'{", ".join(missing) or "none"}; no classes are {", ".join(unknown) or "none"}'
            )
        return folders


def _folders(split: Path) -> list[Path]:
    """Return the folders in a split that are not hidden, sorted."""
    return sorted(path for path in split.iterdir() if path.is_dir() and not is_hidden(path.name))


def _is_split(path: Path) -> bool:
    return path.is_dir() and not is_hidden(path.name) and any(map(holds_images, _folders(path)))


@TRANSFORMS.register_module()
class LoadClassMap(LoadAnnotations):
    """mmseg's ``LoadAnnotations`` for a known number of classes.

    The label maps of a :class:`mtp.data.SegmentationDataset` are read by its rule instead. Ignored
    are also pixels with the nodata value of a GeoTIFF, and those where the image has no data
    (:class:`mtp.data.LoadBands`).

    Args:
        num_classes: number of classes. After the data set's shift, values are below it, or 255 for
            ignored pixels.

    Raises:
        ValueError: the file is missing or unreadable, differs in size from its image, or holds
            another value.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def _load_seg_map(self, results: dict) -> None:
        path, rule = results['seg_map_path'], results.get('map_rule')
        if rule is not None:
            check_unturned(Path(results['img_path']))
            label = rule.read(path, results['ori_shape'])
            if 'no_data' in results:
                label[results['no_data']] = IGNORED
            results['gt_seg_map'] = label
            results['seg_fields'].append('gt_seg_map')
            return
        image = str(results['img_path']).replace('{', '{{').replace('}', '}}')
        with naming_faults(
            path,
            f'{{path}}, the label of {image}, is missing or no readable image: restore the file',
        ):
            check_file(path, results['ori_shape'])
            deep, nodata = read_deep(path), read_nodata(path)
            if deep is not None:  # mmseg converts to 8 bits without a look
                lost = np.isnan(deep) | (deep == nodata)
                check_map_values(np.where(lost, IGNORED, deep), path)
            super()._load_seg_map(results)
        label = results['gt_seg_map']
        if label.shape != tuple(results['ori_shape']):
            raise UnusableFileError(
                f'{path} has shape {label.shape}, but {results["img_path"]} has '
                f'{results["ori_shape"]}: it must be grey and of the same size'
            )
        shift = int(bool(results['reduce_zero_label']))
        if deep is not None:
            label[lost] = IGNORED
        elif nodata is not None:
            label[label == nodata - shift] = IGNORED
        if 'no_data' in results:
            label[results['no_data']] = IGNORED
        wrong = label[(label >= self.num_classes) & (label != IGNORED)]
        if wrong.size:
            raise UnusableFileError(
                f'{path} holds the value {int(wrong[0]) + shift}; the classes are '
                f'{shift} to {self.num_classes - 1 + shift}: prepare the data set '
                'with `mtp data prepare`'
            )
