"""Images of any number of bands and any type, read through rasterio as they are stored.

They become uint8 only by a :class:`Stretch`. rasterio comes with the extra ``mtp[geo]``.
"""

import functools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mtp.data.decoding import check_extent, check_unturned, naming_faults
from mtp.files import UnusableFileError

_CHUNK = 1 << 22  # pixels of a band that are read at once to measure them
_OVERVIEW = 2048  # longer side of the reduced image that percentiles are taken from, pixels


@dataclass(frozen=True)
class Raster:
    """Bands of an image.

    Attributes:
        pixels: values as stored, ``(H, W, N)``.
        missing: pixels without data (nodata, masked, NaN or infinite), bool ``(H, W, N)``; None if
            there are none.
    """

    pixels: np.ndarray
    missing: np.ndarray | None

    def without(self, lost: np.ndarray) -> 'Raster':
        """Return it with further pixels, bool ``(H, W)``, that have no data in any band."""
        if not lost.any():
            return self
        missing = np.repeat(lost[..., None], self.pixels.shape[2], 2)
        return Raster(self.pixels, missing if self.missing is None else self.missing | missing)


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of bands, over the pixels that have data.

    Attributes:
        mean: mean of each band, in the unit of the images.
        std: standard deviation of each band, in the unit of the images.
        dtype: type of the values, such as ``'uint16'``.
    """

    mean: list[float]
    std: list[float]
    dtype: str


def read_bands(
    path: str | Path,
    bands: Sequence[int],
    nodata: float | None = None,
    size: tuple[int, int] | None = None,
    window: tuple[int, int, int, int] | None = None,
) -> Raster:
    """Read bands of an image as stored.

    Args:
        path: path of the file, of any format of GDAL.
        bands: indices of the bands, from 1 on.
        nodata: value of pixels without data; None for that of the file, if it has one.
        size: height and width in pixels that its labels are for; None if they are unknown.
        window: left, top, width and height of the part to read, pixels within the image; None for
            all of it.

    Raises:
        UnusableFileError: rasterio is not installed; the file is missing, damaged, no image or too
            large, holds palette indices, or has not these bands.
    """
    with opened(path, bands, size) as source:
        if window is None:
            return _read(source, bands, nodata)
        from rasterio.windows import Window

        return _read(source, bands, nodata, window=Window(*window))


def stored_type(path: str | Path) -> tuple[int, str]:
    """Return the number of bands of an image, and the type of its values, such as ``'uint16'``.

    Raises:
        UnusableFileError: as in :func:`read_bands`.
    """
    with opened(path, ()) as source:
        return source.count, source.dtypes[0]


@dataclass(frozen=True)
class Stretch:
    """Linear map of the values of each band to 0..255.

    Attributes:
        limits: for each band, the value that becomes 0 and the value that becomes 255, in the unit
            of the images; what is outside is cut. Plain numbers, as in ``data.yaml``.
    """

    limits: tuple[tuple[float, float], ...]

    @classmethod
    def of_scene(
        cls, rule: str, path: str | Path, bands: Sequence[int], nodata: float | None = None
    ) -> 'Stretch':
        """Return the stretch of a scene by a rule.

        Args:
            rule: ``'MIN,MAX'``, values of all bands, or ``'p2,p98'``, percentiles 0..100 of each
                band, over the pixels with data of the scene reduced to 2,048 pixels.
            path: path of the scene.
            bands: indices of the bands, from 1 on.
            nodata: value of pixels without data; None for that of the file, if it has one.

        Raises:
            UnusableFileError: the rule is no such pair, the file cannot be read, or a band has no
                data.
        """
        if not parse_rule(rule)[2]:
            return cls.of_source(rule, None, path, bands, nodata)
        with opened(path, bands) as source:
            return cls.of_source(rule, source, path, bands, nodata)

    @classmethod
    def of_source(
        cls, rule: str, source: Any, path: str | Path, bands: Sequence[int], nodata: float | None
    ) -> 'Stretch':
        """Return the stretch of an open file of rasterio, which a rule of values does not need.

        The other arguments and errors are those of :meth:`of_scene`.
        """
        low, high, percentiles = parse_rule(rule)
        if not percentiles:
            return cls(((low, high),) * len(bands))
        scale = max(1.0, max(source.height, source.width) / _OVERVIEW)
        shape = max(1, int(source.height / scale)), max(1, int(source.width / scale))
        raster = _read(source, bands, nodata, out_shape=(len(bands), *shape))
        limits = []
        for band, values in zip(bands, _with_data(raster)):
            if not values.size:
                raise UnusableFileError(
                    f'{path}, band {band}: no pixel has data, so that it has no percentiles: '
                    'leave the scene out, or give --stretch MIN,MAX'
                )
            first, last = np.percentile(values, (low, high)).tolist()
            limits.append((first, last))
        return cls(tuple(limits))

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels ``(H, W, N)`` of any type as uint8; NaN becomes 0."""
        low, high = np.array(self.limits, np.float64).T
        scaled = (pixels - low) * (255 / np.where(high > low, high - low, 1))
        return np.nan_to_num(scaled.clip(0, 255)).round().astype(np.uint8)


@functools.lru_cache(maxsize=100_000)  # each epoch, and each tile of a scene, asks for it
def stretch_of_scene(
    rule: str, path: str | Path, bands: tuple[int, ...], nodata: float | None
) -> Stretch:
    """Return :meth:`Stretch.of_scene`, kept in memory."""
    return Stretch.of_scene(rule, path, bands, nodata)


def read_picture(path: str | Path, bands: Sequence[int]) -> np.ndarray:
    """Read bands for a picture, uint8 ``(H, W, 3)``; see :func:`as_picture`.

    Args:
        path: path of the image.
        bands: indices of the bands, from 1 on, shown as red, green and blue.

    Raises:
        UnusableFileError: as in :func:`read_bands`.
    """
    raster = read_bands(path, bands)
    return as_picture(raster.pixels, raster.missing)


def as_picture(pixels: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """Show bands as red, green and blue: uint8 ``(H, W, 3)``.

    The first three are shown, of one or two the first in grey. 8 bits are shown as they are, others
    stretched between the percentiles 2 and 98 of each band.

    Args:
        pixels: bands ``(H, W, N)`` of any type.
        missing: pixels without data, bool ``(H, W, N)``; None if there are none.
    """
    chosen = [0, 1, 2] if pixels.shape[2] > 2 else [0, 0, 0]
    raster = Raster(pixels[..., chosen], None if missing is None else missing[..., chosen])
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(raster.pixels)
    limits = (np.percentile(v, (2, 98)) if v.size else (0, 1) for v in _with_data(raster))
    return Stretch(tuple((float(low), float(high)) for low, high in limits)).apply(raster.pixels)


def parse_rule(rule: str) -> tuple[float, float, bool]:
    """Return the two numbers of a rule of ``--stretch``, and whether they are percentiles.

    Raises:
        UnusableFileError: it is neither ``MIN,MAX`` nor ``p2,p98``, or the first is not smaller.
    """
    parts = [part.strip() for part in str(rule).split(',')]
    percentiles = all(part.startswith('p') for part in parts)
    try:
        low, high = (float(part.removeprefix('p') if percentiles else part) for part in parts)
        least, most = (0, 100) if percentiles else (-np.inf, np.inf)
        good = least <= low < high <= most and math.isfinite(high - low)
    except ValueError:
        good = False
    if not good:
        raise UnusableFileError(
            f'stretch {rule!r}: give MIN,MAX in the unit of the images (0,3000), or two '
            'percentiles (p2,p98), the smaller one first'
        )
    return low, high, percentiles


def measure(
    paths: Iterable[str | Path],
    bands: Sequence[int],
    nodata: float | None = None,
    stretch: Stretch | str | None = None,
) -> Statistics:
    """Measure the mean and the standard deviation of each band over all pixels with data.

    Images are read in parts; sums are kept in float64 and merged (Chan et al.), so that neither the
    number nor the offset of the values matters.

    Args:
        paths: images of one type.
        bands: indices of the bands, from 1 on.
        nodata: value of pixels without data; None for that of each file, if it has one.
        stretch: stretch that training applies, or its rule; None if it applies none.

    Raises:
        UnusableFileError: a file cannot be read (:func:`read_bands`) or is of another type than the
            first, or a band has no data in any file.
    """
    sums = np.zeros((len(bands), 3))  # count, mean, sum of squared differences from the mean
    first: tuple[str | Path, str] | None = None
    for path in paths:
        applied = stretch
        if isinstance(stretch, str):
            applied = Stretch.of_scene(stretch, path, bands, nodata)
        with opened(path, bands) as source:
            dtype = _dtype(source, bands)
            first = first or (path, dtype)
            if dtype != first[1] and applied is None:
                raise UnusableFileError(
                    f'{path} has values of type {dtype}, but {first[0]} of {first[1]}: images of '
                    'a data set have one type; --stretch MIN,MAX or p2,p98 makes 8 bits of all'
                )
            for window in _windows(source):
                raster = _read(source, bands, nodata, window=window)
                if isinstance(applied, Stretch):
                    raster = Raster(applied.apply(raster.pixels), raster.missing)
                for band, values in enumerate(_with_data(raster)):
                    sums[band] = _merge(sums[band], values.astype(np.float64))
    if first is None:
        raise UnusableFileError('there are no images to measure')
    for band, (count, *_) in zip(bands, sums):
        if not count:
            raise UnusableFileError(
                f'band {band} has no pixel with data in any image ({first[0]}, ...): leave it out '
                'of bands, or correct nodata'
            )
    return Statistics(
        mean=sums[:, 1].tolist(),
        std=np.sqrt(sums[:, 2] / sums[:, 0]).tolist(),
        dtype='uint8' if stretch is not None else first[1],
    )


def _merge(sums: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Merge further values into count, mean and sum of squared differences."""
    if not values.size:
        return sums
    count, mean, squares = sums
    mean_here = values.mean()
    total, shift = count + values.size, mean_here - mean
    return np.array(
        [
            total,
            mean + shift * values.size / total,
            squares + ((values - mean_here) ** 2).sum() + shift**2 * count * values.size / total,
        ]
    )


def _with_data(raster: Raster) -> Iterator[np.ndarray]:
    """Yield the values of each band that are data, ``(n,)``."""
    for band in range(raster.pixels.shape[2]):
        values = raster.pixels[..., band]
        yield values.ravel() if raster.missing is None else values[~raster.missing[..., band]]


def _windows(source: Any) -> Iterator[Any]:
    """Yield windows of whole rows that cover an image."""
    from rasterio.windows import Window

    rows = max(1, _CHUNK // source.width)
    for top in range(0, source.height, rows):
        yield Window(0, top, source.width, min(rows, source.height - top))


def _read(source: Any, bands: Sequence[int], nodata: float | None, **options: Any) -> Raster:
    from rasterio.enums import MaskFlags

    pixels = source.read(list(bands), **options)
    missing = np.zeros(pixels.shape, bool)
    if pixels.dtype.kind in 'fc':
        missing |= ~np.isfinite(pixels)
    for band, values, lost in zip(bands, pixels, missing):
        empty = source.nodatavals[band - 1] if nodata is None else nodata
        if empty is not None:
            lost |= values == empty
        # Not the fourth of four bands: GDAL takes it for transparency, and it may be infrared.
        of_band = source.mask_flag_enums[band - 1]
        if MaskFlags.per_dataset in of_band and MaskFlags.alpha not in of_band:
            lost |= source.read_masks(band, **_of_one_band(options)) == 0
    moved = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Raster(moved, missing.transpose(1, 2, 0) if missing.any() else None)


def read_window(
    source: Any,
    bands: Sequence[int],
    nodata: float | None,
    window: Sequence[float],
    shape: tuple[int, int] | None,
) -> Raster:
    """Read a window of an open file of rasterio.

    Args:
        source: the file.
        bands: indices of the bands, from 1 on.
        nodata: value of pixels without data; None for that of the file, if it has one.
        window: left, top, width and height in pixels of the file, which need not be whole.
        shape: height and width to resample it to, bilinearly, or by the mean where it becomes
            smaller; None to leave it.
    """
    from rasterio.enums import Resampling
    from rasterio.windows import Window

    if shape is None:
        return _read(source, bands, nodata, window=Window(*map(int, window)))
    smaller = window[2] > shape[1]
    return _read(
        source,
        bands,
        nodata,
        window=Window(*window),
        out_shape=(len(bands), *shape),
        resampling=Resampling.average if smaller else Resampling.bilinear,
    )


def read_alpha(source: Any, window: Sequence[float], shape: tuple[int, int] | None) -> np.ndarray:
    """Read a window of the last band of an open file, its transparency, ``(H, W)``.

    The arguments are those of :func:`read_window`.
    """
    from rasterio.windows import Window

    if shape is None:
        return source.read(source.count, window=Window(*map(int, window)))
    return source.read(source.count, window=Window(*window), out_shape=shape)


def _of_one_band(options: dict[str, Any]) -> dict[str, Any]:
    return {key: v[1:] if key == 'out_shape' else v for key, v in options.items()}


def _dtype(source: Any, bands: Sequence[int]) -> str:
    return str(np.result_type(*(source.dtypes[band - 1] for band in bands)))


@contextmanager
def opened(
    path: str | Path,
    bands: Sequence[int],
    size: tuple[int, int] | None = None,
    any_extent: bool = False,
) -> Iterator[Any]:
    """Open an image, and check its header before its pixels are read.

    Args:
        path: path of the file.
        bands: indices of the bands that it must have, from 1 on.
        size: height and width in pixels that its labels are for; None if they are unknown.
        any_extent: whether it may have more pixels than are read at once.

    Raises:
        UnusableFileError: as in :func:`read_bands`.
    """
    rasterio = import_rasterio(f'{path}: images of chosen bands are read')
    with naming_faults(path, '{path} is missing or no readable image: {error}. Restore the file'):
        with open(path, 'rb'):  # GDAL would fetch what a name such as /vsicurl/... says
            pass
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
            source = rasterio.open(Path(path).resolve())
        with source:
            if not any_extent:
                check_extent(path, (source.height, source.width), size)
            if source.driver != 'GTiff':
                check_unturned(Path(path))
            unknown = [band for band in bands if not 1 <= band <= source.count]
            if unknown:
                raise UnusableFileError(
                    f'{path} has the bands 1 to {source.count}, but not {unknown}: correct bands='
                    f'{list(bands)} of the config or data.yaml'
                )
            if rasterio.enums.ColorInterp.palette in source.colorinterp:
                raise UnusableFileError(
                    f'{path} holds indices of a palette, not values: convert it '
                    '(gdal_translate -expand rgb), or read it without bands'
                )
            yield source


def import_rasterio(purpose: str) -> ModuleType:
    """Return rasterio.

    Args:
        purpose: what it is for, with a verb: ``'scenes are read'``.

    Raises:
        UnusableFileError: it is not installed.
    """
    try:
        import rasterio.errors
        import rasterio.features
    except ImportError as error:
        raise UnusableFileError(
            f'{purpose} with rasterio, which is not installed: pip install mtp[geo]'
        ) from error
    return rasterio


def has_rasterio() -> bool:
    """Return whether rasterio is installed."""
    try:
        import_rasterio('scenes are read')
    except UnusableFileError:
        return False
    return True
