"""Change detection: reader of image pairs, and transforms of both dates and the label together.

A pair is one array with the channels of the earlier date first (twice BGR, or twice N bands):
mmseg's transforms then move both dates and the label in the same way.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmseg.datasets.transforms import PhotoMetricDistortion

from mtp.data.decoding import read_deep
from mtp.data.transforms import LoadImage
from mtp.files import UnusableFileError
from mtp.registry import DATASETS, TRANSFORMS
from mtp.sample_fields import IGNORED

FOLDERS = ('A', 'B', 'label')  # earlier date, later date, change map


@DATASETS.register_module()
class ChangeDataset(BaseDataset):
    """Pairs with a change map: ``<root>/<split>/{A,B,label}/<same name>``, with any suffix.

    Args:
        data_root: root folder, e.g. ``data/levir``.
        split: name of the split, ``'train'``, ``'val'`` or ``'test'``.
        pipeline: transforms of an item.
        test_mode: test mode, as in mmengine.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: a name is not in all three folders, or the folders are empty.
    """

    METAINFO: ClassVar[dict] = dict(
        classes=('unchanged', 'changed'), palette=[[0, 0, 0], [255, 255, 255]]
    )

    def __init__(
        self, data_root: str, split: str, pipeline: Sequence = (), test_mode: bool = False
    ) -> None:
        self.folder = Path(data_root) / split
        super().__init__(pipeline=list(pipeline), test_mode=test_mode)

    def load_data_list(self) -> list[dict]:
        """Return a record of three paths for each pair, in the order of their names."""
        found = [_files(self.folder / name) for name in FOLDERS]
        names = sorted(set().union(*found))
        if not names:
            raise ValueError(f'{self.folder} holds no pairs: {", ".join(FOLDERS)} are empty')
        for name, files in zip(FOLDERS, found):
            lost = [stem for stem in names if stem not in files]
            if lost:
                raise ValueError(
                    f'{self.folder / name} lacks {len(lost)} of {len(names)} pairs: '
                    f'{", ".join(lost[:3])}{", ..." if len(lost) > 3 else ""}. Each name must be '
                    f'in {", ".join(FOLDERS)}: prepare the data set again, or remove these files'
                )
        keys = ('img_path', 'img_path2', 'seg_map_path')
        return [
            dict(zip(keys, (str(files[stem]) for files in found)), seg_fields=[]) for stem in names
        ]


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f'no folder {folder}: a change-detection data set has '
            '{train,val,test}/{A,B,label}; make it with tools/data/prepare.py'
        )
    return {path.stem: path for path in folder.iterdir() if not path.name.startswith('.')}


@TRANSFORMS.register_module()
class LoadPair(BaseTransform):
    """Load both dates as one array: uint8 ``(H, W, 6)``, or what ``image`` loads, twice.

    Args:
        image: config of the transform that loads a date, such as :class:`mtp.data.LoadBands`; None
            for :class:`mtp.data.LoadImage`.

    Raises:
        ValueError: an image cannot be read, or the dates differ in size.
    """

    def __init__(self, image: dict | None = None) -> None:
        self.load = TRANSFORMS.build(image or dict(type=LoadImage))

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        dates = [
            self.load.transform(dict(img_path=results[key])) for key in ('img_path', 'img_path2')
        ]
        before, after = (date['img'] for date in dates)
        if before.shape != after.shape:
            raise UnusableFileError(
                f'{results["img_path"]} is {before.shape[:2]} pixels, but '
                f'{results["img_path2"]} is {after.shape[:2]}: a pair has one size'
            )
        results['img'] = np.concatenate([before, after], axis=2)
        results['img_shape'] = results['ori_shape'] = before.shape[:2]
        for date in dates:  # what was not seen at one date cannot be judged
            if 'no_data' in date:
                results['no_data'] = results.get('no_data', False) | date['no_data']
        return results


@TRANSFORMS.register_module()
class LoadChange(BaseTransform):
    """Load the change map: grey values from 128 on mean changed.

    Raises:
        ValueError: the file cannot be read, differs in size from the images, or holds 0 and 1, so
            that nothing would count as changed.
    """

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, uint8 ``(H, W)``: 0 unchanged, 1 changed."""
        path = results['seg_map_path']
        if read_deep(path) is not None:  # OpenCV would divide its values by 256
            raise UnusableFileError(
                f'{path} has more than 8 bits a pixel; a change map holds 0 and 255 in 8 bits: '
                'prepare it with tools/data/prepare.py'
            )
        grey = LoadImage(color_type='grayscale').transform(dict(img_path=path))['img']
        if grey.shape != results['ori_shape']:
            raise UnusableFileError(
                f'{path} is {grey.shape} pixels, but {results["img_path"]} is '
                f'{results["ori_shape"]}: label and images have one size'
            )
        if grey.max() == 1 and Path(path).suffix.lower() not in ('.jpg', '.jpeg'):
            raise ValueError(
                f'{path} holds 0 and 1; a change map holds 0 and 255 (128 and more is '
                'changed): prepare it with tools/data/prepare.py'
            )
        results['gt_seg_map'] = (grey >= 128).astype(np.uint8)
        if 'no_data' in results:
            results['gt_seg_map'][results['no_data']] = IGNORED
        results['seg_fields'].append('gt_seg_map')
        return results


@TRANSFORMS.register_module()
class SwapDates(BaseTransform):
    """Swap the two dates; the change map stays the same."""

    def transform(self, results: dict) -> dict:
        """Move the last N channels of ``(H, W, 2 N)`` before the first N."""
        results['img'] = np.roll(results['img'], results['img'].shape[2] // 2, axis=2)
        return results


@TRANSFORMS.register_module()
class DistortPair(PhotoMetricDistortion):
    """mmseg's ``PhotoMetricDistortion``, drawn separately for each date."""

    def transform(self, results: dict) -> dict:
        """Distort ``img``, uint8 ``(H, W, 6)``."""
        dates = (np.ascontiguousarray(results['img'][..., i : i + 3]) for i in (0, 3))
        distort = super().transform
        results['img'] = np.concatenate([distort(dict(img=date))['img'] for date in dates], axis=2)
        return results
