"""Transforms of mmpretrain's recipe for images of other than 8-bit RGB.

Most transforms of OpenMMLab take any number of bands and floats. Those here replace the ones that
do not; :func:`mtp.recipes.multispectral.adapt` puts them into a config.
"""

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.datasets.transforms import (
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    ResizeEdge,
    Rotate,
    Shear,
    Translate,
)
from PIL import Image

from mtp.registry import TRANSFORMS

MOVING = (Rotate, Shear, Translate)  # operations of RandAugment that leave values as they are


@TRANSFORMS.register_module()
class BandResizedCrop(RandomResizedCrop):
    """mmpretrain's ``RandomResizedCrop``, by Pillow, for any number of bands."""

    def transform(self, results: dict) -> dict:
        """Draw, crop and resize as mmpretrain does."""
        top, left, height, width = self.rand_crop_params(results['img'])
        crop = results['img'][top : top + height, left : left + width]
        results['img'] = resize_bands(crop, tuple(self.scale[::-1]), self.interpolation)
        results['img_shape'] = results['img'].shape
        return results


@TRANSFORMS.register_module()
class BandResizeEdge(ResizeEdge):
    """mmpretrain's ``ResizeEdge``, by Pillow, for any number of bands."""

    def _resize_img(self, results: dict) -> None:
        height, width = results['img'].shape[:2]
        new_width, new_height = results['scale']
        results['img'] = resize_bands(results['img'], results['scale'], self.interpolation)
        results['img_shape'] = results['img'].shape[:2]
        results['scale_factor'] = (new_width / width, new_height / height)


def resize_bands(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resize each band by Pillow: for 8-bit RGB equal to mmcv's backend ``'pillow'``.

    Args:
        image: image ``(H, W, N)``, uint8 or float32.
        size: new width and height, pixels.
        interpolation: name of mmcv's interpolation.
    """
    filter_ = mmcv.image.geometric.pillow_interp_codes[interpolation]
    bands = (np.ascontiguousarray(image[..., band]) for band in range(image.shape[2]))
    resized = [np.asarray(Image.fromarray(band).resize(size, filter_)) for band in bands]
    return np.stack(resized, axis=2)


@TRANSFORMS.register_module()
class BandRandAugment(RandAugment):
    """mmpretrain's ``RandAugment`` for any number of bands: colour operations change nothing.

    They are still drawn, so that rotations, shears and translations are as frequent as before.

    Args:
        fill: value of each band outside the image, in the order and unit of the image.
        kwargs: arguments of mmpretrain's class.
    """

    def __init__(self, fill: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**{**kwargs, 'hparams': {**kwargs.get('hparams', {}), 'pad_val': 0}})
        self.fill = np.array(fill, np.float32)

    def transform(self, results: dict) -> dict:
        """Augment an image relative to ``fill``: OpenCV fills with four values at most."""
        image = results['img']
        moved = image.astype(np.float32) - self.fill
        for index in self.random_policy_indices():
            if isinstance(self.transforms[index], MOVING):
                moved = _in_parts(self.transforms[index], moved)
        moved = moved + self.fill
        if image.dtype == np.uint8:
            moved = moved.round().clip(0, 255).astype(np.uint8)
        results['img'] = moved
        return results


def _in_parts(transform: BaseTransform, image: np.ndarray) -> np.ndarray:
    """Transform four bands at a time, as many as OpenCV's cubic warp takes, by the same draws."""
    state, parts = np.random.get_state(), []
    for first in range(0, image.shape[2], 4):
        np.random.set_state(state)
        part = np.ascontiguousarray(image[..., first : first + 4])
        parts.append(transform(dict(img=part))['img'].reshape(part.shape))
    return np.concatenate(parts, axis=2)


@TRANSFORMS.register_module()
class BandErasing(RandomErasing):
    """mmpretrain's ``RandomErasing`` for any number of bands, with normal noise.

    Args:
        fill_color: mean of each band, in the order and unit of the image.
        fill_std: standard deviation of each band.
        kwargs: further arguments of mmpretrain's class.
    """

    def __init__(
        self, fill_color: Sequence[float], fill_std: Sequence[float], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.fill_color, self.fill_std = list(fill_color), list(fill_std)

    def _fill_pixels(self, img: np.ndarray, top: int, left: int, h: int, w: int) -> np.ndarray:
        shape = (h, w, len(self.fill_color))
        patch = np.random.normal(self.fill_color, self.fill_std, shape)
        if img.dtype == np.uint8:
            patch = patch.clip(0, 255)
        img[top : top + h, left : left + w] = patch
        return img
