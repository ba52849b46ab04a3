"""Detection data sets: mmdet's and mmrotate's readers, with the classes and clear errors."""

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmrotate.datasets import DOTADataset

from mtp.data.datasets import DATASETS
from mtp.data.label_files import read_coco, read_lines
from mtp.data.values import check_boxes, check_coordinates
from mtp.files import UnusableFileError
from mtp.registry import DATASETS as REGISTRY


@REGISTRY.register_module()
class COCODetection(CocoDataset):
    """mmdet's ``CocoDataset`` that refuses a json whose categories are not the data set's.

    Args:
        dataset: key of :data:`mtp.data.datasets.DATASETS`, for the classes.
        kwargs: further arguments, as in mmdet.
    """

    METAINFO: ClassVar[dict] = {}  # without COCO's classes and colours

    def __init__(self, dataset: str, **kwargs: Any) -> None:
        super().__init__(metainfo=dict(classes=DATASETS[dataset].classes), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load the records, as in mmdet.

        Raises:
            FileNotFoundError: the json is missing.
            ValueError: the json has no images, or a category is missing or unknown.
        """
        if not Path(self.ann_file).is_file():
            raise FileNotFoundError(
                f'no annotations at {self.ann_file}: make them with '
                'tools/data/prepare.py, or set data_root'
            )
        records = super().load_data_list()
        if not records:
            raise ValueError(f'{self.ann_file} lists no images')
        return records

    def COCOAPI(self, path: str) -> COCO:
        """Read the json; refuse other categories, whose objects mmdet would silently leave out."""
        content = read_coco(path)
        check_boxes(content['annotations'], path)
        known = {image['id'] for image in content['images']}
        for annotation in content['annotations']:
            if annotation['image_id'] not in known:
                raise UnusableFileError(
                    f'{path}, annotation {annotation["id"]}: no image {annotation["image_id"]}: '
                    'correct or remove it'
                )
        ids = Counter(annotation['id'] for annotation in content['annotations'])
        if ids and max(ids.values()) > 1:
            raise UnusableFileError(
                f'{path}: {ids.most_common(1)[0][1]} annotations have the id '
                f'{ids.most_common(1)[0][0]}: give each its own'
            )
        del content  # mmdet reads the file by itself
        coco = COCO(path)
        found = {category['name'] for category in coco.dataset['categories']}
        classes = set(self.metainfo['classes'])
        if found != classes:
            raise ValueError(
                f'{path}: categories {sorted(found - classes)} are no classes of the data set, and '
                f'{sorted(classes - found)} are missing; make it again with tools/data/prepare.py'
            )
        return coco


@REGISTRY.register_module()
class DIORDetection(COCODetection):
    """DIOR with horizontal boxes, as ``tools/data/prepare.py dior`` makes it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('dior', **kwargs)


@REGISTRY.register_module()
class XViewDetection(COCODetection):
    """xView in tiles, as ``tools/data/prepare.py xview`` makes it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('xview', **kwargs)


@REGISTRY.register_module()
class DOTATiles(DOTADataset):
    """mmrotate's ``DOTADataset`` for any data set of tiles; errors name the line.

    Args:
        dataset: key of :data:`mtp.data.datasets.DATASETS`, for the classes.
        kwargs: further arguments, as in mmrotate.
    """

    def __init__(self, dataset: str, **kwargs: Any) -> None:
        super().__init__(metainfo=dict(classes=DATASETS[dataset].classes, palette=None), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load the records, as in mmrotate, in the order of their names.

        Raises:
            FileNotFoundError: there are no images, or no label files.
            ValueError: a line of a label file is malformed, or names an unknown class.
        """
        folder = Path(self.ann_file or self.data_prefix['img_path'])
        suffix = 'txt' if self.ann_file else self.img_suffix
        if not any(folder.glob(f'*.{suffix}')):
            raise FileNotFoundError(
                f'no *.{suffix} in {folder}: make them with tools/data/prepare.py, or set data_root'
            )
        if self.ann_file:
            for path in sorted(folder.glob('*.txt')):
                self._check_lines(path)
        return sorted(super().load_data_list(), key=lambda record: record['img_id'])

    def _check_lines(self, path: Path) -> None:
        """Refuse what mmrotate would take, such as NaN, or refuse without naming the line."""
        classes = self.metainfo['classes']
        for place, line in read_lines(path):
            fields = line.split()
            if len(fields) < 10 or fields[8] not in classes or not fields[9].isdecimal():
                raise UnusableFileError(
                    f'{place}: expected eight coordinates, a class and a difficulty, got '
                    f'{line!r}; classes are {", ".join(classes)}'
                )
            check_coordinates(fields[:8], place)
