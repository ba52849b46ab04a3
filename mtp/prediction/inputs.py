"""Images in any form, as the first transform of a model's pipeline would have loaded them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps

from mtp.data.bands import Raster, as_picture
from mtp.data.load_bands import LoadBands
from mtp.data.readers.pairs import LoadPair
from mtp.files import UnusableFileError

ImageLike = str | os.PathLike | Image.Image | np.ndarray
Input = ImageLike | tuple[ImageLike, ImageLike]


class Loader:
    """Loading of an image, and the transforms before a model.

    Args:
        pipeline: configs of the transforms, the one that loads first.
    """

    def __init__(self, pipeline: list[dict]) -> None:
        if not pipeline:
            raise UnusableFileError('its config has no transforms that load an image')
        self.first: BaseTransform = TRANSFORMS.build(pipeline[0])
        self.rest = Compose([TRANSFORMS.build(step) for step in pipeline[1:]])
        self.is_pair = isinstance(self.first, LoadPair)
        date = self.first.load if isinstance(self.first, LoadPair) else self.first
        self.bands: LoadBands | None = date if isinstance(date, LoadBands) else None

    @property
    def channels(self) -> int:
        """Number of bands of an image, or of one date of a pair."""
        return 3 if self.bands is None else len(self.bands.bands)

    def load(self, image: Input) -> dict[str, Any]:
        """Return a record with ``img``: uint8 or float32 ``(H, W, C)``, as the pipeline takes it.

        Args:
            image: path; PIL image; or array ``(H, W, C)``, RGB or the bands that the model was
                trained on, uint8 or the type of the training. For change detection, a pair of them.

        Raises:
            UnusableFileError: a file is no image, or type, bands or sizes do not fit the model.
        """
        if not self.is_pair:
            if isinstance(image, tuple):
                raise UnusableFileError('the model takes single images, and this is a pair')
            return self._one(image)
        if not isinstance(image, tuple) or len(image) != 2:
            raise UnusableFileError('the model compares two dates: give a tuple (before, after)')
        return self.pair([self._one(each) for each in image])

    def pair(self, dates: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the record of a pair from those of its dates.

        Raises:
            UnusableFileError: they differ in size.
        """
        if dates[0]['img'].shape != dates[1]['img'].shape:
            shapes = ' and '.join(str(date['img'].shape[:2]) for date in dates)
            raise UnusableFileError(f'the two dates are of {shapes} pixels: a pair has one size')
        record = dates[0] | dict(
            img=np.concatenate([date['img'] for date in dates], 2), img_path2=dates[1]['img_path']
        )
        lost = [date['no_data'] for date in dates if 'no_data' in date]
        return record | (dict(no_data=np.logical_or.reduce(lost)) if lost else {})

    def transform(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sample of a record: ``inputs`` and ``data_samples``."""
        return self.rest(dict(record))

    def picture(self, record: Mapping[str, Any]) -> np.ndarray:
        """Return the image of a record for pictures, uint8 RGB; of a pair, the later date."""
        pixels = record['img'][..., -self.channels :]
        return as_picture(pixels[..., ::-1] if self.channels == 3 else pixels)

    def _one(self, image: ImageLike) -> dict[str, Any]:
        date = self.first.load if isinstance(self.first, LoadPair) else self.first
        if isinstance(image, str | os.PathLike):
            if not Path(image).is_file():
                raise UnusableFileError(f'no file {image}')
            return date.transform(dict(img_path=str(image)))
        if isinstance(image, Image.Image):
            name = getattr(image, 'filename', '')
            turned = ImageOps.exif_transpose(image)
            if self.bands is None:
                turned = turned.convert('RGB')
            return self.from_pixels(Raster(np.asarray(turned), None), str(name))
        if isinstance(image, np.ndarray):
            return self.from_pixels(Raster(image, None), '')
        raise UnusableFileError(
            f'an image is a path, a PIL image or an array (H, W, C), not {type(image).__name__}'
        )

    def from_pixels(self, raster: Raster, name: str) -> dict[str, Any]:
        """Return the record of an image in memory, or of one date of a pair.

        Args:
            raster: pixels ``(H, W, C)`` or ``(H, W)``, RGB or the bands of the training; which
                have no data matters for bands alone.
            name: name for messages; may be empty.

        Raises:
            UnusableFileError: type or number of bands do not fit the model.
        """
        pixels = raster.pixels
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], self.channels, 2)
        what = name or 'an array'
        if pixels.ndim != 3 or pixels.shape[2] != self.channels or not pixels.size:
            raise UnusableFileError(
                f'{what} has the shape {pixels.shape}, and the model takes (H, W, {self.channels})'
            )
        record: dict[str, Any] = dict(img_path=name, img_shape=pixels.shape[:2])
        record['ori_shape'] = pixels.shape[:2]
        if self.bands is not None:
            return self.bands.add(record, Raster(pixels, raster.missing), what)
        if pixels.dtype != np.uint8:
            raise UnusableFileError(
                f'{what} has values of type {pixels.dtype}, and the model takes uint8: stretch '
                'them to 8 bits (--stretch MIN,MAX or p2,p98)'
            )
        record['img'] = np.ascontiguousarray(pixels[..., ::-1])
        return record
