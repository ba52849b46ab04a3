"""Detection data sets with a COCO json: by one rule for known data sets and for one's own."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmdet.datasets import BaseDetDataset

from mtp.data.class_names import ClassNames
from mtp.data.coco_objects import (
    by_image,
    find_area,
    match_categories,
    take_objects,
)
from mtp.data.datasets import DATASETS
from mtp.data.image_files import is_image
from mtp.data.label_files import read_coco
from mtp.data.readers.box_files import BoxFilesDetection
from mtp.data.readers.box_records import filter_records
from mtp.data.tally import Tally
from mtp.data.values import check_boxes
from mtp.files import MissingFileError, UnusableFileError
from mtp.registry import DATASETS as REGISTRY


@REGISTRY.register_module()
class COCODetection(BaseDetDataset):
    """Horizontal boxes of a COCO json, of a data set that mtp knows or of one's own.

    Images come in the order of their file names. Crowds are neither positive nor negative. What is
    left out, and what is read otherwise than it stands, is counted in ``tally``.

    Args:
        dataset: key of :data:`mtp.data.datasets.DATASETS`, for the classes.
        classes: class names in label order, instead of ``dataset``; categories of the json are
            matched by name.
        data_prefix: folder of the images below ``data_root``, ``dict(img=...)``; None for
            ``data_root`` itself.
        kwargs: further arguments, as in mmdet's ``BaseDetDataset``; ``filter_cfg`` takes
            ``filter_empty_gt`` and ``min_size``.

    Raises:
        FileNotFoundError: the json, or an image in it, is missing.
        ValueError: the classes are given twice or not at all; the json or an entry in it has no one
            meaning, or no image is left.
    """

    METAINFO: ClassVar[dict] = {}

    def __init__(
        self,
        dataset: str | None = None,
        classes: Sequence[str] | None = None,
        data_prefix: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.known = dataset is not None
        if dataset is not None and classes is None:
            classes = DATASETS[dataset].classes
        elif dataset is not None or classes is None:
            raise ValueError('give either `dataset`, the name of a known data set, or `classes`')
        self.tally = Tally()
        self.names = ClassNames(classes, self.tally)
        super().__init__(
            metainfo=dict(classes=self.names.classes),
            data_prefix=data_prefix or dict(img=''),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Load a record of each image."""
        path = self.ann_file
        if not Path(path).is_file():
            made = 'make them with `mtp data prepare`, or set data_root'
            raise MissingFileError(
                f'no annotations at {path}: ' + (made if self.known else 'correct `ann_file`')
            )
        coco = read_coco(path)
        if not coco['images']:
            raise UnusableFileError(f'{path} lists no images')
        check_boxes(coco['annotations'], path)
        objects = by_image(coco, path)
        if self.known:
            self._check_categories(coco)
        labels = match_categories(coco, self.names, path, self.tally)
        images = sorted(coco['images'], key=lambda image: image['file_name'])
        self._check_files([image['file_name'] for image in images])
        return [self._record(image, objects[image['id']], labels) for image in images]

    def filter_data(self) -> list[dict]:
        """Leave out the images that ``filter_cfg`` names; count what is left."""
        self.tally.add(Tally(objects=0))
        cfg = None if self.test_mode else self.filter_cfg
        left = filter_records(self.data_list, cfg, self.names, self.tally)
        if not left:
            raise UnusableFileError(
                f'{self.ann_file}: no image is left ({self.tally.summary()}); looked for objects '
                f'of {", ".join(self.names.classes)}'
            )
        return left

    def _record(self, image: dict, annotations: list[dict], labels: dict[int | str, int]) -> dict:
        instances = []
        for annotation in take_objects(image, annotations, self.ann_file, self.tally):
            x, y, w, h = annotation['bbox']
            instance = dict(
                bbox=[x, y, x + w, y + h],
                bbox_label=labels[annotation['category_id']],
                ignore_flag=int(annotation.get('iscrowd', 0)),
                area=find_area(annotation, image, self.ann_file),
            )
            if annotation.get('segmentation'):
                instance['mask'] = annotation['segmentation']
            instances.append(instance)
        return dict(
            img_path=str(Path(self.data_prefix['img'], image['file_name'])),
            img_id=image['id'],
            height=image['height'],
            width=image['width'],
            instances=instances,
        )

    def _check_categories(self, coco: dict) -> None:
        """Refuse other categories than those of a known data set, also without objects."""
        found = [category['name'] for category in coco['categories']]
        other = {name for name in found if self.names.find(name) is None}
        missing = set(range(len(self.names.classes))) - {self.names.find(name) for name in found}
        if other or missing:
            raise UnusableFileError(
                f'{self.ann_file}: categories {sorted(other)} are no classes of the data set, and '
                f'{sorted(self.names.classes[label] for label in missing)} are missing; make it '
                'again with `mtp data prepare`'
            )

    def _check_files(self, names: list[str]) -> None:
        """Refuse names without a file; count the images beside them that have no entry."""
        root = Path(self.data_prefix['img'])
        listed = {root / name for name in names}
        there: set[Path] = set()
        for folder in sorted({path.parent for path in listed}):
            if folder.is_dir():
                there.update(map(folder.joinpath, os.listdir(folder)))
        missing = sorted(map(str, listed - there))
        if missing:
            alike = {path.stem.lower(): path.name for path in there}.get(
                Path(missing[0]).stem.lower()
            )
            raise MissingFileError(
                f'{self.ann_file}: {len(missing):,} of {len(names):,} images are missing, the '
                f'first is {missing[0]}'
                + (f' (there is {alike})' if alike else '')
                + ': correct `data_prefix`, restore the images, or correct `file_name`'
            )
        extra = {path for path in there - listed if is_image(path.name)}
        if extra:
            extra -= {root / name for name in _listed_beside(Path(self.ann_file))}
        for path in sorted(extra):
            self.tally.leave_out('images without an entry', str(path))


def _listed_beside(path: Path) -> Iterator[str]:
    """Yield the file names in the other json files of a folder: those of the other splits."""
    for other in sorted(path.parent.glob('*.json')):
        if other != path:
            text = other.read_text(errors='replace')
            yield from re.findall(r'"file_name"\s*:\s*"([^"\\]+)"', text)


@REGISTRY.register_module()
class DIORDetection(COCODetection):
    """DIOR with horizontal boxes, as ``mtp data prepare dior`` makes it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('dior', **kwargs)


@REGISTRY.register_module()
class XViewDetection(COCODetection):
    """xView in tiles, as ``mtp data prepare xview`` makes it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('xview', **kwargs)


@REGISTRY.register_module()
class DOTATiles(BoxFilesDetection):
    """Tiles with DOTA's text, as configs of release 0.1 name them."""

    def __init__(self, dataset: str, **kwargs: Any) -> None:
        super().__init__('dota', dataset=dataset, **kwargs)
