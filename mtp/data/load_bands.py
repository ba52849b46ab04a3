"""Loading of chosen bands, as the first transform of a pipeline."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from mtp.data.bands import Raster, Stretch, parse_rule, read_bands, stretch_of_scene
from mtp.files import UnusableFileError
from mtp.registry import TRANSFORMS

RGB = 3  # number of bands that are loaded as BGR


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
        return self.add(results, read_bands(path, self.bands, self.nodata, size), path)

    def add(self, results: dict, raster: Raster, path: str) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape`` of bands that are in memory.

        Args:
            results: record of the image; changed in place.
            raster: values of the bands as stored.
            path: path or name of the image, for messages and a stretch by percentiles.
        """
        raster = self._fitting(raster, path)
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
        return stretch_of_scene(load.stretch, path, tuple(load.bands), load.nodata)
    assert load.stretch is not None
    return Stretch(tuple((float(low), float(high)) for low, high in load.stretch))
