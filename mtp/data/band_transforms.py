"""Transforms for images of other than 8-bit RGB: loading, and those of mmpretrain's recipe.

Most transforms of OpenMMLab take any number of bands and floats. Those here replace the ones that
do not; :func:`mtp.recipes.multispectral.adapt` puts them into a config.
"""

import functools
from collections.abc import Callable, Sequence
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

from mtp.data.bands import Raster, Stretch, parse_rule, read_bands
from mtp.files import UnusableFileError
from mtp.registry import TRANSFORMS

RGB = 3


@TRANSFORMS.register_module()
class LoadBands(BaseTransform):
    """Load chosen bands of ``img_path`` through rasterio, never cut to 8 bits.

    ``img`` is uint8 where the file is or where a stretch makes it, else float32 with the values as
    stored. Three bands are loaded in reverse, as :class:`mtp.data.LoadImage` loads BGR: the data
    preprocessors turn them again, so that ``mean`` and ``std`` are in the order of ``bands``.

    Pixels without data (nodata, masked, NaN) become the mean. Where no band has data, label maps
    are ignored: such pixels are marked in ``no_data``.

    Args:
        bands: indices of the bands, from 1 on.
        dtype: type of the values in the files. One of another type is an error, since mean and
            deviation would not fit.
        nodata: value of pixels without data; None for that of each file, if it has one.
        mean: value of each band that pixels without data get, in the unit of ``img``; None for the
            mean of the image.
        stretch: limits of each band (:class:`mtp.data.bands.Stretch`), or a rule by which they are
            taken from each image: ``'MIN,MAX'`` or ``'p2,p98'``. None to keep the values.

    Raises:
        UnusableFileError: a file cannot be read, is of another type, or has no data at all while
            ``mean`` is None.
    """

    def __init__(
        self,
        bands: Sequence[int],
        dtype: str = 'uint8',
        nodata: float | None = None,
        mean: Sequence[float] | None = None,
        stretch: Sequence[Sequence[float]] | str | None = None,
    ) -> None:
        for name, values in (('mean', mean), ('stretch', stretch)):
            if values is not None and not isinstance(values, str) and len(values) != len(bands):
                raise ValueError(
                    f'{name} has {len(values)} entries, but bands={list(bands)}: give one for each'
                )
        if isinstance(stretch, str):
            parse_rule(stretch)
        self.bands = [int(band) for band in bands]
        self.dtype = dtype
        self.nodata = nodata
        self.mean = mean
        self.stretch = stretch

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape``, and ``no_data`` where there is none."""
        path = results['img_path']
        labelled = 'height' in results and 'width' in results
        size = (results['height'], results['width']) if labelled else None
        raster = self._fitting(read_bands(path, self.bands, self.nodata, size), path)
        image = self._filled(raster, path)
        results['img'] = image[..., ::-1] if len(self.bands) == RGB else image
        results['img'] = np.ascontiguousarray(results['img'])
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        if raster.missing is not None and raster.missing.all(2).any():
            results['no_data'] = raster.missing.all(2)
        return results

    def _fitting(self, raster: Raster, path: str) -> Raster:
        """Return a raster with the values that the model gets: uint8 or float32."""
        found = raster.pixels.dtype
        if self.stretch is not None:
            return Raster(_stretch_of(self, path).apply(raster.pixels), raster.missing)
        if found != self.dtype:
            raise UnusableFileError(
                f'{path} has values of type {found}, but the config is for {self.dtype}: give '
                f"LoadBands dtype='{found}' with mean and std of such images (mtp data import "
                "measures them), or make 8 bits of them by stretch='p2,p98' (--stretch)"
            )
        if found == np.uint8:
            return raster
        return Raster(raster.pixels.astype(np.float32), raster.missing)

    def _filled(self, raster: Raster, path: str) -> np.ndarray:
        if raster.missing is None:
            return raster.pixels
        image = raster.pixels.copy()
        for band in range(image.shape[2]):
            lost = raster.missing[..., band]
            if not lost.any():
                continue
            if self.mean is None and lost.all():
                raise UnusableFileError(
                    f'{path}, band {self.bands[band]}: no pixel has data: leave the image out, or '
                    'give LoadBands the mean of each band'
                )
            fill = image[..., band][~lost].mean() if self.mean is None else self.mean[band]
            image[..., band][lost] = np.rint(fill) if image.dtype == np.uint8 else fill
        return image


def _stretch_of(load: LoadBands, path: str) -> Stretch:
    if isinstance(load.stretch, str):
        return _stretch_by(load.stretch, path, tuple(load.bands), load.nodata)
    assert load.stretch is not None
    return Stretch(tuple((float(low), float(high)) for low, high in load.stretch))


@functools.lru_cache(maxsize=100_000)  # an image is loaded in each epoch
def _stretch_by(rule: str, path: str, bands: tuple[int, ...], nodata: float | None) -> Stretch:
    return Stretch.of_scene(rule, path, bands, nodata)


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
        moving = (Rotate, Shear, Translate)
        self.transforms: list[Callable[[dict], dict]] = [
            transform if isinstance(transform, moving) else _unchanged for transform in self
        ]

    def transform(self, results: dict) -> dict:
        """Augment an image relative to ``fill``: OpenCV fills with four values at most."""
        image = results['img']
        results['img'] = image.astype(np.float32) - self.fill
        super().transform(results)
        moved = results['img'].reshape(image.shape) + self.fill
        results['img'] = (
            moved.round().clip(0, 255).astype(np.uint8) if image.dtype == np.uint8 else moved
        )
        return results


def _unchanged(results: dict) -> dict:
    return results


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
