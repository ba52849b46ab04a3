"""Change detection: reader of image pairs, and transforms of both dates and the label together.

A pair is one array with the channels of the earlier date first (twice BGR, or twice N bands):
mmseg's transforms then move both dates and the label in the same way.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import PhotoMetricDistortion

from mtp.data.datasets import DATASETS
from mtp.data.datasets.base import CHANGE
from mtp.data.decoding import check_unturned, read_deep
from mtp.data.map_values import LabelValues
from mtp.data.readers.maps import MapDataset
from mtp.data.transforms import LoadImage
from mtp.files import UnusableFileError
from mtp.registry import DATASETS as REGISTRY
from mtp.registry import TRANSFORMS
from mtp.sample_fields import IGNORED


@REGISTRY.register_module()
class ChangeDataset(MapDataset):
    """Pairs with a change map: ``<root>/<split>/{A,B,label}/<same name>``, of any suffix.

    Args:
        data_root: root folder, e.g. ``data/levir``.
        split: name of the split, ``'train'``, ``'val'`` or ``'test'``.
        dataset: key of :data:`mtp.data.datasets.DATASETS` if it was prepared by
            ``mtp data prepare``: its change maps hold 0 and 255, and are not looked through.
        label_values: value of the change maps -> ``'unchanged'``, ``'changed'`` or None, as in
            :class:`MapDataset`.
        pipeline: transforms of an item.
        test_mode: test mode, as in mmengine.
    """

    folders: ClassVar[dict[str, str]] = dict(img_path='A', img_path2='B', seg_map_path='label')

    def __init__(
        self,
        data_root: str,
        split: str,
        dataset: str | None = None,
        label_values: LabelValues | None = None,
        pipeline: Sequence = (),
        test_mode: bool = False,
    ) -> None:
        if dataset is not None and not DATASETS[dataset].label_values == CHANGE['label_values']:
            raise ValueError(f'dataset={dataset!r}: it has no change maps')
        self._known = dataset is not None
        super().__init__(
            data_root,
            split,
            CHANGE['classes'],
            label_values,
            CHANGE['palette'],
            pipeline,
            test_mode,
        )

    def _judge(self) -> None:
        if not self._known:
            super()._judge()


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
    """Load the change map by the rule of its data set; without one, 128 and more means changed.

    Raises:
        ValueError: the file cannot be read, differs in size from the images, or holds other values,
            so that nothing would count as changed.
    """

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, uint8 ``(H, W)``: 0 unchanged, 1 changed, 255 ignored."""
        rule = results.get('map_rule')
        if rule is None:
            results['gt_seg_map'] = self._cut(results)
        else:
            for key in ('img_path', 'img_path2'):
                check_unturned(Path(results[key]))
            results['gt_seg_map'] = rule.read(results['seg_map_path'], results['ori_shape'])
        if 'no_data' in results:
            results['gt_seg_map'][results['no_data']] = IGNORED
        results['seg_fields'].append('gt_seg_map')
        return results

    @staticmethod
    def _cut(results: dict) -> np.ndarray:
        """Read the change map of a prepared data set."""
        path = results['seg_map_path']
        if read_deep(path) is not None:  # OpenCV would divide its values by 256
            raise UnusableFileError(
                f'{path} has more than 8 bits a pixel; a change map holds 0 and 255 in 8 bits: '
                'prepare it with `mtp data prepare`'
            )
        grey = LoadImage(color_type='grayscale').transform(dict(img_path=path))['img']
        if grey.shape != results['ori_shape']:
            raise UnusableFileError(
                f'{path} is {grey.shape} pixels, but {results["img_path"]} is '
                f'{results["ori_shape"]}: label and images have one size'
            )
        if 0 < grey.max() < 128 and Path(path).suffix.lower() not in ('.jpg', '.jpeg'):
            raise UnusableFileError(
                f'{path} holds values up to {grey.max()}; the change maps of a prepared data set '
                'hold 0 and 255 (128 and more is changed): prepare it with `mtp data prepare`, '
                'or set dataset=None for data of your own'
            )
        return (grey >= 128).astype(np.uint8)


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
