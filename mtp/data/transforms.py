"""Transforms that keep an image and all its labels consistent: mmdet's, extended to any labels.

The rows of the table of labels (:mod:`mtp.data.labels`) say which labels exist, and transform those
that mmdet does not.
"""

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmdet.datasets import transforms as mmdet
from mmdet.structures import DetDataSample
from mmseg.datasets.transforms import PhotoMetricDistortion

from mtp.data.decoding import check_image, check_shape, naming_faults
from mtp.registry import TRANSFORMS
from mtp.sample_fields import Label, find_labels, label_table


@TRANSFORMS.register_module()
class LoadImage(MMCVLoadImageFromFile):
    """Load ``img_path`` as uint8 BGR.

    Raises:
        UnusableFileError: the file is missing, damaged, not an image, too large, of another size
            than its labels, or has other bands than grey or three colours of 8 bits; the message
            names it.
    """

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        path = results['img_path']
        labelled = 'height' in results and 'width' in results
        with naming_faults(path):
            if self.backend_args is None:  # a file of this machine
                size = (results['height'], results['width']) if labelled else None
                with open(path, 'rb') as file:
                    check_image(path, file, size)
            results = super().transform(results)
            if labelled:
                check_shape(path, results['img'].shape, (results['height'], results['width']))
            return results


@TRANSFORMS.register_module()
class LoadLabels(BaseTransform):
    """Load the labels of a record into arrays, at the image's original size.

    The keys that it adds for each task of the data set are listed at the task's row of the table of
    labels (:mod:`mtp.data.labels`).

    Raises:
        ValueError: a label file is missing or unusable.
    """

    def transform(self, results: dict) -> dict:
        """Load the labels of the tasks in ``results['tasks']``."""
        for label in find_labels(results['tasks']):
            label.load(results)
        return results


def labels_in(results: dict) -> list[Label]:
    """Return the rows of the table whose labels ``results`` holds."""
    return [label for label in label_table().values() if label.key in results]


@TRANSFORMS.register_module()
class Flip(mmdet.RandomFlip):
    """mmdet's ``RandomFlip`` for all labels."""

    def _flip(self, results: dict) -> None:
        super()._flip(results)
        for label in labels_in(results):
            label.flip(results)


@TRANSFORMS.register_module()
class Resize(mmdet.Resize):
    """mmdet's ``Resize`` for all labels; rotated boxes are not clipped."""

    def _resize_bboxes(self, results: dict) -> None:
        super()._resize_bboxes(results)
        for label in labels_in(results):
            label.resize(results)


@TRANSFORMS.register_module()
class Crop(mmdet.RandomCrop):
    """mmdet's ``RandomCrop`` for all labels.

    Boxes are recomputed from the cropped masks; crops without objects are allowed.

    Args:
        size: side of the crop in pixels; a smaller image stays as it is.
    """

    def __init__(self, size: int) -> None:
        super().__init__((size, size), allow_negative_crop=True, recompute_bbox=True)

    def _crop_data(
        self, results: dict, crop_size: tuple[int, int], allow_negative_crop: bool
    ) -> dict:
        results['homography_matrix'] = None  # so that it becomes that of this crop alone
        results = super()._crop_data(results, crop_size, allow_negative_crop)
        for label in labels_in(results):
            label.cut(results)
        return results


@TRANSFORMS.register_module()
class FilterInstances(mmdet.FilterAnnotations):
    """Drop instances without a box (sides up to 1e-5 pixel) or without a mask.

    Returns None, so that another image is drawn, if the crop had instances and none is left. As in
    the official code, a crop without instances is kept, and rotated boxes are ignored.
    """

    def __init__(self) -> None:
        super().__init__(min_gt_bbox_wh=(1e-5, 1e-5), min_gt_mask_area=1, by_mask=True)

    def transform(self, results: dict) -> dict | None:
        """Filter the instances; return a sample without instance labels unchanged."""
        return super().transform(results) if 'gt_bboxes' in results else results


@TRANSFORMS.register_module()
class DrawDistortion(PhotoMetricDistortion):
    """Draw mmseg's ``PhotoMetricDistortion``; the data preprocessor applies it, on the device.

    Adds ``distortion``: added brightness, contrast factor before saturation and hue, saturation
    factor, added hue, contrast factor after them; NaN for each step that is left out.
    """

    def transform(self, results: dict) -> dict:
        """Draw the random numbers in mmseg's order."""
        brightness = self._maybe(-self.brightness_delta, self.brightness_delta)
        early_contrast, contrast = np.random.randint(2) == 1, [np.nan, np.nan]
        if early_contrast:
            contrast[0] = self._maybe(self.contrast_lower, self.contrast_upper)
        saturation = self._maybe(self.saturation_lower, self.saturation_upper)
        hue = np.nan
        if np.random.randint(2):
            hue = float(np.random.randint(-self.hue_delta, self.hue_delta))
        if not early_contrast:
            contrast[1] = self._maybe(self.contrast_lower, self.contrast_upper)
        results['distortion'] = (brightness, contrast[0], saturation, hue, contrast[1])
        return results

    @staticmethod
    def _maybe(low: float, high: float) -> float:
        return np.random.uniform(low, high) if np.random.randint(2) else np.nan


@TRANSFORMS.register_module()
class PackLabels(BaseTransform):
    """Pack a sample for the model and the metrics: ``inputs`` and ``data_samples``.

    ``inputs`` is uint8 ``(3, H, W)`` BGR, ``data_samples`` a ``DetDataSample`` with the fields of
    all labels in ``results`` (:mod:`mtp.data.labels`).
    """

    meta_keys = (
        'dataset',
        'img_id',
        'img_path',
        'ori_shape',
        'img_shape',
        'scale_factor',
        'flip',
        'flip_direction',
        'distortion',
    )

    def transform(self, results: dict) -> dict:
        """Pack a sample."""
        sample = DetDataSample()
        for key in self.meta_keys:  # the constructor would copy each of them
            if key in results:
                sample.set_field(results[key], key, field_type='metainfo')
        for label in labels_in(results):
            for name, value in label.pack(results).items():
                setattr(sample, name, value)
        image = torch.from_numpy(np.ascontiguousarray(results['img'])).permute(2, 0, 1)
        return dict(inputs=image, data_samples=sample)
