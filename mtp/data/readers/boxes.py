"""Detection data sets with a COCO json: mmdet's reader, with the classes and clear errors."""

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO

from mtp.data.datasets import DATASETS
from mtp.data.label_files import read_coco
from mtp.data.readers.box_files import BoxFilesDetection
from mtp.data.values import check_boxes
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
class DOTATiles(BoxFilesDetection):
    """Tiles with DOTA's text, as configs of release 0.1 name them."""

    def __init__(self, dataset: str, **kwargs: Any) -> None:
        super().__init__('dota', dataset=dataset, **kwargs)
