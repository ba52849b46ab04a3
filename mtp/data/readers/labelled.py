"""Readers of mmpretrain's and mmseg's labels, with errors that name the file and its fault."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpretrain.datasets import CustomDataset
from mmseg.datasets.transforms import LoadAnnotations

from mtp.data.datasets import DATASETS
from mtp.data.decoding import check_file, naming_faults, read_deep
from mtp.data.label_files import read_lines
from mtp.data.values import check_map_values, check_name
from mtp.files import UnusableFileError
from mtp.registry import DATASETS as REGISTRY
from mtp.registry import TRANSFORMS
from mtp.sample_fields import IGNORED


@REGISTRY.register_module()
class SceneDataset(CustomDataset):
    """mmpretrain's ``CustomDataset`` with known classes: folders named after them, or a list.

    A line of the list is ``<image, below data_prefix> <label, from 0>``.

    Args:
        dataset: key of :data:`mtp.data.datasets.DATASETS`, for the classes.
        kwargs: further arguments, as in mmpretrain.

    Raises:
        FileNotFoundError: the list or the folder is missing.
        ValueError: the folders are not those of the classes, a line has another form, or the list
            is empty.
    """

    def __init__(self, dataset: str, **kwargs: Any) -> None:
        super().__init__(classes=DATASETS[dataset].classes, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load the records of the list, or check the folders and load theirs as in mmpretrain."""
        if self.ann_file:
            # mmpretrain splits lines at other characters than the check of them would.
            return list(self._read_list(Path(self.ann_file)))
        self._check_folders(Path(self.img_prefix))
        return super().load_data_list()

    def _read_list(self, path: Path) -> Iterator[dict]:
        if not path.is_file():
            raise FileNotFoundError(
                f'no list of images at {path}: make it with tools/data/prepare.py'
            )
        lines = list(read_lines(path))
        if not lines:
            raise ValueError(f'{path} lists no image: make it again with tools/data/prepare.py')
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

    def _check_folders(self, root: Path) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f'no folder {root}: make it with tools/data/prepare.py')
        found = {path.name for path in root.iterdir() if path.is_dir()}
        missing, unknown = sorted(set(self.CLASSES) - found), sorted(found - set(self.CLASSES))
        if missing or unknown:
            raise ValueError(
                f'{root} must have one folder per class: missing are '
                f'{", ".join(missing) or "none"}; no classes are '
                f'{", ".join(unknown) or "none"}'
            )


@TRANSFORMS.register_module()
class LoadClassMap(LoadAnnotations):
    """mmseg's ``LoadAnnotations`` for a known number of classes.

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
        path = results['seg_map_path']
        image = str(results['img_path']).replace('{', '{{').replace('}', '}}')
        with naming_faults(
            path,
            f'{{path}}, the label of {image}, is missing or no readable image: restore the file',
        ):
            check_file(path, results['ori_shape'])
            deep = read_deep(path)
            if deep is not None:  # mmseg converts to 8 bits without a look
                check_map_values(deep, path)
            super()._load_seg_map(results)
        label = results['gt_seg_map']
        if label.shape != tuple(results['ori_shape']):
            raise UnusableFileError(
                f'{path} has shape {label.shape}, but {results["img_path"]} has '
                f'{results["ori_shape"]}: it must be grey and of the same size'
            )
        wrong = label[(label >= self.num_classes) & (label != IGNORED)]
        if wrong.size:
            shift = int(bool(results['reduce_zero_label']))
            raise UnusableFileError(
                f'{path} holds the value {int(wrong[0]) + shift}; the classes are '
                f'{shift} to {self.num_classes - 1 + shift}: prepare the data set '
                'with tools/data/prepare.py'
            )
