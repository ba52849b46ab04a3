"""Scenes of any size, read window by window as a model takes its images."""

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtp.data.bands import (
    Raster,
    Stretch,
    as_picture,
    import_rasterio,
    opened,
    read_alpha,
    read_window,
)
from mtp.data.own.rasters import pixel_in_metres
from mtp.files import UnusableFileError
from mtp.prediction.inputs import Loader
from mtp.prediction.places import Place

LEAST_CACHE, MOST_CACHE = 32 << 20, 512 << 20  # bytes of decoded blocks that GDAL keeps
RGB = (1, 2, 3)
_ALPHA = 4  # bands of an RGB image with transparency


class Scene:
    """Image of any size, open for reading; of a change detector, two dates on one grid.

    Coordinates are pixels of the model: those of the scene, or of the scene resampled to the
    model's ground sampling distance. All reading must happen in one thread.

    Args:
        path: file, of any format of GDAL.
        loader: loading of the model's images.
        about: what the checkpoint tells of the scenes that its data were made from.
        mean: mean of each band of the model's images, which pixels without data get.
        later: file of the later date.
        bands: bands to read, from 1 on; None for those of the training.
        stretch: rule by which 8 bits are made, ``'MIN,MAX'`` or ``'p2,p98'``; None for that of the
            training.
        gsd: ground sampling distance of the model's images in metres; None to resample nothing.

    Attributes:
        size: height and width in pixels of the model.
        full: height and width of the file in pixels.
        place: place of the file on the map; None without one.
        files: the file, or those of both dates.
        notes: what is to be said of it.

    Raises:
        UnusableFileError: rasterio is not installed, or a file is no image or has other bands, type
            or extent than the model takes.
    """

    def __init__(
        self,
        path: Path,
        loader: Loader,
        about: dict[str, Any],
        mean: np.ndarray,
        later: Path | None = None,
        bands: Sequence[int] | None = None,
        stretch: str | None = None,
        gsd: float | None = None,
    ) -> None:
        self.path, self.loader, self.mean = path, loader, mean
        self.notes: list[str] = []
        if loader.is_pair != (later is not None):
            raise UnusableFileError(
                f'{path}: the model compares two dates: give BEFORE AFTER'
                if loader.is_pair
                else f'{path}: the model takes single images, and this is a pair'
            )
        import_rasterio(f'{path}: scenes are read')
        self.files = [path] if later is None else [path, later]
        with ExitStack() as self._stack:
            self._sources = sources = [self._open(each) for each in self.files]
            first = sources[0]
            self.full = first.height, first.width
            self.place = place_of(first)
            self.bands = self._bands(sources, bands, about)
            self.nodata = about.get('nodata') if loader.bands is None else loader.bands.nodata
            rule = stretch or about.get('stretch')
            self.stretches = [
                self._stretch(source, each, rule) for source, each in zip(sources, self.files)
            ]
            self.dates = [first, *(self._aligned(each, first) for each in sources[1:])]
            scale = self._scale(gsd, pixel_in_metres(first))
            self.size = tuple(max(1, round(side / scale)) for side in self.full)
            # of whole pixels of the model, so that the last ones end where the file does
            self.scale = np.divide(self.full, self.size)[::-1]
            self._stack = self._stack.pop_all()  # all is well: they stay open

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def limit_cache(self, height: int) -> None:
        """Let GDAL keep the decoded blocks of a row of tiles, until the scene is closed.

        Its own limit is a share of the machine's memory. With less than the row, a striped file
        would be decoded again for each tile. The variable ``GDAL_CACHEMAX`` overrules it.

        Args:
            height: height of a tile in pixels of the model.
        """
        if 'GDAL_CACHEMAX' in os.environ:
            return
        rasterio = import_rasterio(f'{self.path}: scenes are read')
        rows = math.ceil(height * self.scale[1])
        needed = sum(_bytes_of_rows(each, rows) for each in {*self._sources, *self.dates})
        limit = min(max(needed, LEAST_CACHE), MOST_CACHE)
        before = rasterio.env.get_gdal_config('GDAL_CACHEMAX')

        def restore() -> None:  # an Env that ends while files are open leaves its limit
            with rasterio.Env(GDAL_CACHEMAX=before):
                pass

        self._stack.callback(restore)
        self._stack.enter_context(rasterio.Env(GDAL_CACHEMAX=limit))

    def read(self, top: int, left: int, height: int, width: int) -> dict[str, Any] | None:
        """Return the record of a window, in pixels of the model; None if it has no data."""
        rasters = [
            self._window(date, stretch, top, left, height, width)
            for date, stretch in zip(self.dates, self.stretches)
        ]
        lost = [raster.missing.all(2) for raster in rasters if raster.missing is not None]
        no_data = np.logical_or.reduce(lost) if lost else None  # at one date: not to be judged
        if no_data is not None and no_data.all():
            return None
        records = [self.loader.from_pixels(self._filled(r), str(self.path)) for r in rasters]
        record = self.loader.pair(records) if self.loader.is_pair else records[0]
        return record if no_data is None else record | dict(no_data=no_data)

    def _filled(self, raster: Raster) -> Raster:
        if raster.missing is None:
            return raster
        fill = self.mean
        if raster.pixels.dtype.kind in 'iu':
            fill = np.rint(fill)
        return Raster(
            np.where(raster.missing, fill.astype(raster.pixels.dtype), raster.pixels), None
        )

    def picture(self, largest: int) -> tuple[np.ndarray, float]:
        """Return a picture, uint8 RGB, and its pixels on the side of one of the file's.

        Args:
            largest: longer side in pixels.
        """
        scale = min(1.0, largest / max(self.full))
        shape = tuple(max(1, round(side * scale)) for side in self.full)
        bands = self.bands if len(self.bands) in (1, 3) else self.bands[:3]
        pixels = self.dates[-1].read(list(bands), out_shape=(len(bands), *shape))
        return as_picture(np.ascontiguousarray(pixels.transpose(1, 2, 0))), scale

    def _open(self, path: Path) -> Any:
        if not path.is_file():
            raise UnusableFileError(f'no file {path}')
        return self._stack.enter_context(opened(path, (), any_extent=True))

    def _aligned(self, source: Any, first: Any) -> Any:
        """Return the later date on the grid of the first."""
        path = self.files[1]
        same = (source.height, source.width) == self.full
        if same and (source.crs, source.transform) == (first.crs, first.transform):
            return source
        if not source.crs or not first.crs:
            if same:
                return source
            raise UnusableFileError(
                f'{path} is {source.width} x {source.height} pixels, {self.path} is {first.width} '
                f'x {first.height}, and they have no place on the map by which to bring one onto '
                'the other'
            )
        from rasterio.coords import disjoint_bounds
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT
        from rasterio.warp import transform_bounds

        bounds = transform_bounds(source.crs, first.crs, *source.bounds)
        if disjoint_bounds(bounds, tuple(first.bounds)):
            raise UnusableFileError(f'{path} and {self.path} do not overlap on the map')
        self.notes.append(f'{path} is warped onto the grid of {self.path}')
        return self._stack.enter_context(
            WarpedVRT(
                source,
                crs=first.crs,
                transform=first.transform,
                height=first.height,
                width=first.width,
                resampling=Resampling.bilinear,
                add_alpha=source.nodata is None,
            )
        )

    def _bands(
        self, sources: Sequence[Any], given: Sequence[int] | None, about: dict[str, Any]
    ) -> tuple[int, ...]:
        trained = () if self.loader.bands is None else tuple(self.loader.bands.bands)
        if not trained and 'stretch' in about:
            trained = tuple(about.get('bands', ()))
        count = sources[0].count
        bands = tuple(given or trained)
        if not bands:
            plain = count == len(RGB) or (count == _ALPHA and self._has_alpha(sources[0]))
            bands = RGB if plain else (1,) if count == 1 else ()
        if len(bands) != self.loader.channels and not (bands == (1,) and not trained):
            raise UnusableFileError(
                f'{self.path} has {count} bands, and the model takes {self.loader.channels}: say '
                'which by --bands, from 1 on'
            )
        for source in sources:
            if not all(1 <= band <= source.count for band in bands):
                raise UnusableFileError(
                    f'{source.name} has the bands 1 to {source.count}, and not all of '
                    f'{", ".join(map(str, bands))}: say which by --bands'
                )
        return bands

    @staticmethod
    def _has_alpha(source: Any) -> bool:
        """Return whether the last band is transparency; of a warped date, where it lies outside."""
        from rasterio.enums import ColorInterp
        from rasterio.vrt import WarpedVRT

        return source.colorinterp[-1] == ColorInterp.alpha and (
            isinstance(source, WarpedVRT) or source.count == _ALPHA
        )

    def _stretch(self, source: Any, path: Path, rule: Any) -> Stretch | None:
        """Return what makes 8 bits of a date; None if its values stay."""
        if source.dtypes[0] == 'uint8':
            return None
        if self.loader.bands is not None and self.loader.bands.dtype != 'uint8':
            return None  # trained on such values; LoadBands checks their type
        if not rule:
            raise UnusableFileError(
                f'{path} has values of type {source.dtypes[0]}, and the model was trained on 8 '
                'bits: give --stretch MIN,MAX, or p2,p98 for percentiles of each band'
            )
        if isinstance(rule, str):
            found = Stretch.of_source(rule, source, path, self.bands, self.nodata)
            limits = ', '.join(f'{low:g} to {high:g}' for low, high in found.limits)
            self.notes.append(f'{path} is stretched to 8 bits by {rule}: {limits}')
            return found
        return Stretch(tuple((float(low), float(high)) for low, high in rule))

    def _scale(self, gsd: float | None, own: float | None) -> float:
        """Return the scene's pixels on the side of one of the model's.

        Args:
            gsd: ground sampling distance of the model's images in metres; None to resample nothing.
            own: that of the scene; None if it is unknown.
        """
        if gsd is None:
            return 1.0
        if own is None:
            self.notes.append(
                f'{self.path} has no place on the map: it is taken as having the {gsd:g} m a '
                'pixel of the training'
            )
            return 1.0
        scale = gsd / own
        if abs(scale - 1) < 0.01:
            return 1.0
        self.notes.append(
            f'{self.path} has {own:.3g} m a pixel: it is resampled to the {gsd:g} m of '
            'the training (--gsd none leaves it)'
        )
        return scale

    def _window(
        self, source: Any, stretch: Stretch | None, top: int, left: int, height: int, width: int
    ) -> Raster:
        window = [*(np.array([left, top]) * self.scale), *(np.array([width, height]) * self.scale)]
        window[2] = min(window[2], self.full[1] - window[0])
        window[3] = min(window[3], self.full[0] - window[1])
        out_shape = None if self.size == self.full else (height, width)
        try:
            raster = read_window(source, self.bands, self.nodata, window, out_shape)
            if self._has_alpha(source):
                raster = raster.without(read_alpha(source, window, out_shape) == 0)
        except Exception as error:  # of GDAL, for damaged blocks
            raise UnusableFileError(f'{source.name}: pixels cannot be read: {error}') from error
        pixels = raster.pixels
        if stretch is not None:
            pixels = stretch.apply(pixels)
        if self.bands == (1,) and self.loader.channels > 1:
            pixels = np.repeat(pixels, self.loader.channels, 2)
            if raster.missing is not None:
                return Raster(pixels, np.repeat(raster.missing, self.loader.channels, 2))
        return Raster(pixels, raster.missing)


class PlainScene:
    """Image in memory, for want of rasterio, with what :class:`Scene` has; without a place.

    Args:
        paths: file of the image, or those of both dates.
        loader: loading of the model's images.
    """

    scale = np.ones(2)
    place: Place | None = None
    bands: tuple[int, ...] = ()
    stretches: Sequence[Stretch | None] = ()

    def __init__(self, paths: Sequence[Path], loader: Loader) -> None:
        self.loader, self.path, self.files = loader, paths[0], list(paths)
        image: Any = str(paths[0]) if len(paths) == 1 else tuple(map(str, paths))
        self.record = loader.load(image)
        self.size = self.full = tuple(self.record['img'].shape[:2])
        self.notes = [
            f'{self.path} is read as an image without a place on the map, since rasterio is not '
            'installed: pip install mtp[geo]'
        ]

    def close(self) -> None:
        """Do nothing: no file is open."""

    def limit_cache(self, height: int) -> None:
        """Do nothing: the image is in memory."""

    def read(self, top: int, left: int, height: int, width: int) -> dict[str, Any] | None:
        """Return the record of a window; None if it has no data."""
        part = np.s_[top : top + height, left : left + width]
        record = self.record | dict(img=np.ascontiguousarray(self.record['img'][part]))
        record['img_shape'] = record['ori_shape'] = record['img'].shape[:2]
        if 'no_data' in record:
            record['no_data'] = record['no_data'][part]
            if record['no_data'].all():
                return None
        return record

    def picture(self, largest: int) -> tuple[np.ndarray, float]:
        """Return a picture, as :meth:`Scene.picture` does."""
        picture = self.loader.picture(self.record)
        scale = min(1.0, largest / max(self.full))
        return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale


def _bytes_of_rows(source: Any, rows: int) -> int:
    """Return the bytes of the blocks of an open file that so many rows may meet."""
    block = source.block_shapes[0][0]
    met = (math.ceil(rows / block) + 1) * block
    sizes = (np.dtype(kind).itemsize for kind in source.dtypes)
    return min(met, source.height) * source.width * sum(sizes)


def place_of(source: Any) -> Place | None:
    """Return the place of an open file of rasterio; None without one."""
    # an engineering system is in units of its own: neither degrees nor a known projection
    on_map = source.crs and (source.crs.is_geographic or source.crs.is_projected)
    if not on_map or source.transform.is_identity:
        return None
    epsg = source.crs.to_epsg()
    crs = source.crs.to_wkt() if epsg is None else f'EPSG:{epsg}'
    return Place(tuple(source.transform)[:6], crs, (source.height, source.width))
