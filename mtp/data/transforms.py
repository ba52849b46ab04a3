"""Transforms that keep an image's boxes, rotated boxes, masks and semantic map consistent.

mmdet's transforms with the rotated boxes added: beside mmdet's keys a sample may have
``gt_rotated_bboxes`` (``RotatedBoxes``) and ``gt_rotated_bboxes_labels``.
"""
import numpy as np
import torch
from mmcv.transforms import BaseTransform, to_tensor
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmdet.datasets import transforms as mmdet
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmrotate.structures import RotatedBoxes
from mmseg.datasets.transforms import PhotoMetricDistortion

from mtp.data.decoding import read_map
from mtp.data.run_lengths import decode_mask
from mtp.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(MMCVLoadImageFromFile):
    """Load ``img_path`` as uint8 BGR; a missing or damaged file is named.

    Raises:
        ValueError: the file is missing or no image.
    """

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        path = results['img_path']
        try:
            return super().transform(results)
        except Exception as error:  # whatever the file backend and the decoder raise
            raise ValueError(f'{path} is missing or no readable image: restore the file, or find '
                             'all such files with tools/data/check_dataset.py') from error


@TRANSFORMS.register_module()
class LoadLabels(BaseTransform):
    """From the records of a data set to arrays, at the image's original size.

    Adds, for the tasks that the data set has labels for: ``gt_seg_map`` (uint8; 0 = background,
    class i -> i + 1), ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_ignore_flags``, ``gt_masks``;
    ``gt_rotated_bboxes``, ``gt_rotated_bboxes_labels``.

    Raises:
        ValueError: the semantic map is missing, of another size, or has a value that is no class.
    """

    def transform(self, results: dict) -> dict:
        """Load what ``results['tasks']`` names."""
        if 'semantic' in results['tasks']:
            results['gt_seg_map'] = self._semantic(results)
        labels, shape = results['labels'], results['ori_shape']
        if 'instance' in results['tasks']:
            results['gt_bboxes'] = HorizontalBoxes(labels.boxes)
            results['gt_bboxes'].clip_(shape)
            results['gt_bboxes_labels'] = labels.labels
            results['gt_ignore_flags'] = labels.crowd
            masks = [decode_mask(dict(size=shape, counts=c), *shape) for c in labels.counts]
            results['gt_masks'] = BitmapMasks(masks, *shape)
        if 'rotated' in results['tasks']:
            results['gt_rotated_bboxes'] = RotatedBoxes(labels.rotated)
            results['gt_rotated_bboxes_labels'] = labels.rotated_labels
        return results

    @staticmethod
    def _semantic(results: dict) -> np.ndarray:
        path, shape = results['seg_map_path'], tuple(results['ori_shape'])
        loaded = read_map(path)
        check_map_shape(loaded, shape, results)
        return as_labels(loaded, results)


def check_map_shape(loaded: np.ndarray, shape: tuple[int, int], results: dict) -> None:
    """Raise ValueError unless a label map is grey and of the image's size."""
    if loaded.shape != shape:
        raise ValueError(f'{results["seg_map_path"]} has shape {loaded.shape}, but '
                         f'{results["img_path"]} has {shape}: it must be grey and of the same size')


def as_labels(values: np.ndarray, results: dict) -> np.ndarray:
    """A label map's values in the file -> uint8, 0 = background, class i -> i + 1.

    Raises:
        ValueError: a value that is no class.
    """
    # uint8 wraps around: the file's background, 255, becomes 0
    labels = values.astype(np.uint8) + np.uint8(1)
    if labels.max(initial=0) > results['num_classes']:
        raise ValueError(f'{results["seg_map_path"]} holds the value {int(labels.max()) - 1}, but '
                         f'the data set has {results["num_classes"]} classes: 0 to '
                         f'{results["num_classes"] - 1}, and 255 for background')
    return labels


@TRANSFORMS.register_module()
class Flip(mmdet.RandomFlip):
    """mmdet's ``RandomFlip``, rotated boxes included."""

    def _flip(self, results: dict) -> None:
        super()._flip(results)
        if 'gt_rotated_bboxes' in results:
            results['gt_rotated_bboxes'].flip_(
                results['img'].shape[:2], direction=results['flip_direction'])


@TRANSFORMS.register_module()
class Resize(mmdet.Resize):
    """mmdet's ``Resize``, rotated boxes included; these are not clipped."""

    def _resize_bboxes(self, results: dict) -> None:
        super()._resize_bboxes(results)
        if 'gt_rotated_bboxes' in results:
            results['gt_rotated_bboxes'].rescale_(results['scale_factor'])


@TRANSFORMS.register_module()
class Crop(mmdet.RandomCrop):
    """mmdet's ``RandomCrop``; rotated boxes stay where their centre does, and are not clipped.

    Boxes are recomputed from the cropped masks; crops without objects are allowed.

    Args:
        size: side of the crop in pixels; a smaller image stays as it is.
    """

    def __init__(self, size: int) -> None:
        super().__init__((size, size), allow_negative_crop=True, recompute_bbox=True)

    def _crop_data(self, results: dict, crop_size: tuple[int, int],
                   allow_negative_crop: bool) -> dict:
        results['homography_matrix'] = None  # afterwards it is that of this crop alone
        results = super()._crop_data(results, crop_size, allow_negative_crop)
        if 'gt_rotated_bboxes' in results:
            boxes = results['gt_rotated_bboxes']
            boxes.translate_(results['homography_matrix'][:2, 2].tolist())
            inside = boxes.is_inside(results['img_shape']).numpy()
            results['gt_rotated_bboxes'] = boxes[inside]
            results['gt_rotated_bboxes_labels'] = results['gt_rotated_bboxes_labels'][inside]
        return results


@TRANSFORMS.register_module()
class FilterInstances(mmdet.FilterAnnotations):
    """Drop instances without a box (sides up to 1e-5 pixel) or without a mask.

    Gives None, for another image to be drawn, when the crop had instances and none is left. A crop
    without instances is kept, and rotated boxes are neither filtered nor consulted, as in the
    official code.
    """

    def __init__(self) -> None:
        super().__init__(min_gt_bbox_wh=(1e-5, 1e-5), min_gt_mask_area=1, by_mask=True)

    def transform(self, results: dict) -> dict | None:
        """Filter; the identity for samples without instance labels."""
        return super().transform(results) if 'gt_bboxes' in results else results


@TRANSFORMS.register_module()
class DrawDistortion(PhotoMetricDistortion):
    """Draw mmseg's ``PhotoMetricDistortion``; the data preprocessor applies it, on the device.

    Adds ``distortion``: brightness added, contrast before, saturation factor, hue steps added,
    contrast after; NaN where a step is left out.
    """

    def transform(self, results: dict) -> dict:
        """Draw as mmseg does, in its order."""
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
    """A sample as the model and the metrics take it: ``inputs`` and ``data_samples``.

    ``inputs`` is uint8 ``(3, H, W)`` BGR, ``data_samples`` a ``DetDataSample`` with the fields
    ``gt_sem_seg``, ``gt_instances``, ``ignored_instances`` and ``gt_rotated_instances``, as far as
    the data set has such labels.
    """
    meta_keys = ('dataset', 'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                 'flip_direction', 'distortion')

    def transform(self, results: dict) -> dict:
        """Pack."""
        sample = DetDataSample()
        for key in self.meta_keys:  # given to the constructor they would be copied one by one
            if key in results:
                sample.set_field(results[key], key, field_type='metainfo')
        if 'gt_seg_map' in results:
            seg_map = torch.from_numpy(results['gt_seg_map'])
            sample.gt_sem_seg = PixelData(sem_seg=seg_map[None])
        if 'gt_bboxes' in results:
            ignore = results['gt_ignore_flags']
            # crowds are rare, and a slice is cheaper than a choice
            parts = (~ignore, ignore) if ignore.any() else (slice(None), slice(0))
            sample.gt_instances, sample.ignored_instances = (
                InstanceData(bboxes=results['gt_bboxes'][part],
                             labels=to_tensor(results['gt_bboxes_labels'][part]),
                             masks=results['gt_masks'][part])
                for part in parts)
        if 'gt_rotated_bboxes' in results:
            sample.gt_rotated_instances = InstanceData(
                bboxes=RotatedBoxes(results['gt_rotated_bboxes'].tensor, clone=False),
                labels=to_tensor(results['gt_rotated_bboxes_labels']))
        image = torch.from_numpy(np.ascontiguousarray(results['img'])).permute(2, 0, 1)
        return dict(inputs=image, data_samples=sample)
