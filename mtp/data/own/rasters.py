"""Images of an import: read from the files as they are, written whole or as tiles.

8-bit RGB is written as PNG. Other bands and types are written as GeoTIFF of the same type, through
rasterio, unless a stretch makes 8 bits of them.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import shapely

from mtp.data.bands import (
    Raster,
    Stretch,
    opened,
    parse_rule,
    read_bands,
    stored_type,
    stretch_of_scene,
)
from mtp.data.decoding import read_header, read_image, read_map, read_nodata
from mtp.data.description import Description
from mtp.data.map_values import MapRule
from mtp.data.prepare.images import write_png
from mtp.data.prepare.tiling import PADDING
from mtp.files import UnusableFileError, whole
from mtp.sample_fields import IGNORED

RGB = (1, 2, 3)
GREY = round(sum(PADDING) / len(PADDING))
SAMPLED = 20  # images whose ground sampling distance is read
Limits = tuple[tuple[float, float], ...]
Window = tuple[int, int, int]  # left, top and side in pixels


@dataclass(frozen=True)
class Bands:
    """Bands that are taken from images of other than 8-bit RGB.

    Attributes:
        chosen: indices of the bands, from 1 on.
        dtype: type of the values in the files; ``''`` if they differ, which a stretch allows.
        nodata: value of pixels without data; None for that of each file, if they differ.
        stretch: rule ``'MIN,MAX'`` or ``'p2,p98'``, or limits of each band, by which 8 bits are
            made; None to keep the values.
    """

    chosen: tuple[int, ...]
    dtype: str
    nodata: float | None = None
    stretch: str | Limits | None = None

    @property
    def as_rgb(self) -> bool:
        """Whether the result is 8-bit RGB or grey, which needs no bands any more."""
        return (self.stretch is not None or self.dtype == 'uint8') and len(self.chosen) in (1, 3)

    @property
    def rewrites(self) -> bool:
        """Whether all images are written anew, not only those that are cut."""
        return self.as_rgb or self.stretch is not None

    def limits(self, path: Path) -> Stretch | None:
        """Return the stretch of a scene; None if there is none."""
        if isinstance(self.stretch, str):
            return stretch_of_scene(self.stretch, path, self.chosen, self.nodata)
        return None if self.stretch is None else Stretch(self.stretch)


def find_bands(
    images: Sequence[Path],
    chosen: Sequence[int],
    stretch: str | None,
    description: Description | None,
) -> Bands | None:
    """Return how the bands of images are taken; None for 8-bit RGB, which is read as it is.

    Args:
        images: images of a data set.
        chosen: bands that the user chose; empty for those of the description, or all.
        stretch: rule that the user gave; None for the limits or rule of the description, unless
            the images are 8-bit already.
        description: content of the ``data.yaml``; None if there is none.

    Raises:
        UnusableFileError: images cannot be read, differ in type without a stretch, or do not have
            the bands; or the rule is none.
    """
    if stretch is not None:
        parse_rule(stretch)
    plain = all(is_rgb(path) for path in images)
    if description is not None and description.stretch and _all_eight_bits(images):
        # what the description says has been done
        description = replace(description, bands=(), stretch=(), nodata=None)
    chosen = tuple(chosen) or (description.bands if description else ())
    nodata = description.nodata if description else None
    plain = plain and nodata is None and not any(map(_has_nodata, images))
    if plain and stretch is None and chosen in ((), RGB):
        return None
    types: dict[tuple[int, str], Path] = {}
    empty = set()
    for path in images:
        with opened(path, chosen) as source:
            types.setdefault((source.count, source.dtypes[0]), path)
            empty.add(source.nodata)
    if nodata is None and len(empty) == 1:
        nodata = empty.pop()
    (count, dtype), first = next(iter(types.items()))
    names = {name for _, name in types}
    rule = stretch or (description.stretch if description else None) or None
    for (other, name), path in types.items():
        if (name != dtype and rule is None) or (other != count and not chosen):
            raise UnusableFileError(
                f'{path} has {other} bands of type {name}, but {first} {count} of type {dtype}: '
                'images of a data set are alike; choose bands that all have (--bands 1,2,3), and '
                'make 8 bits of all (--stretch p2,p98 or MIN,MAX)'
            )
    return Bands(
        chosen or tuple(range(1, count + 1)),
        dtype if len(names) == 1 else '',
        nodata,
        rule,
    )


def is_rgb(path: Path) -> bool:
    """Return whether an image is 8-bit RGB or grey, by its header."""
    with open(path, 'rb') as file:
        header = read_header(file)
    return header is None or (header.bits <= 8 and header.bands in (1, 3))


def _has_nodata(path: Path) -> bool:
    return read_nodata(path) is not None


def _all_eight_bits(images: Iterable[Path]) -> bool:
    return all(is_rgb(path) or stored_type(path)[1] == 'uint8' for path in images)


@dataclass(frozen=True)
class Part:
    """Part of an image to write.

    Attributes:
        size: height and width of the image in pixels.
        window: left, top and side of the tile; None for the whole image.
        area: ground that is labelled, in pixels of the image; None if all of the part is.
    """

    size: tuple[int, int]
    window: Window | None = None
    area: shapely.Geometry | None = None

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of what the image holds of the part, pixels."""
        height, width = self.size
        if self.window is None:
            return 0, 0, width, height
        x, y, side = self.window
        return x, y, min(side, width - x), min(side, height - y)

    def outside(self) -> np.ndarray | None:
        """Return the pixels outside the area, bool ``(H, W)`` of the extent; None if none is."""
        if self.area is None:
            return None
        from rasterio import Affine
        from rasterio.features import geometry_mask

        x, y, width, height = self.extent
        return geometry_mask([self.area], (height, width), Affine.translation(x, y))

    def padded(self, pixels: np.ndarray, value: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the pixels of the extent, filled up to the tile's side."""
        if self.window is None or pixels.shape[:2] == (self.window[2],) * 2:
            return pixels
        side = self.window[2]
        full = np.empty((side, side, *pixels.shape[2:]), pixels.dtype)
        full[:] = value
        full[: pixels.shape[0], : pixels.shape[1]] = pixels
        return full


def write_image(source: Path, target: Path, part: Part, bands: Bands | None) -> None:
    """Write a part of an image; what is outside of it, or has no data, becomes the mean colour.

    In a GeoTIFF, such pixels have the nodata value of its source, or are masked.
    """
    if bands is None:
        x, y, width, height = part.extent
        pixels = _pixels(source)[y : y + height, x : x + width]
        outside = part.outside()
        if outside is not None:
            pixels = np.where(outside[..., None], np.array(PADDING, np.uint8), pixels)
        write_png(target, part.padded(pixels, PADDING))
        return
    limits = bands.limits(source)
    with opened(source, bands.chosen) as file:
        every = tuple(range(1, file.count + 1))
    raster = read_bands(
        source, bands.chosen if bands.rewrites else every, bands.nodata, window=part.extent
    )
    pixels = raster.pixels if limits is None else limits.apply(raster.pixels)
    missing = np.zeros(pixels.shape, bool) if raster.missing is None else raster.missing
    outside = part.outside()
    if outside is not None:
        missing = missing | outside[..., None]
    if bands.as_rgb:
        colour = np.array(PADDING if pixels.shape[2] == 3 else GREY, np.uint8)
        pixels = part.padded(np.where(missing, colour, pixels), colour)
        write_png(target, pixels if pixels.shape[2] == 3 else pixels[..., 0])
    else:
        _write_tiff(source, target, part, bands, Raster(pixels, part.padded(missing, True)))


def _write_tiff(source: Path, target: Path, part: Part, bands: Bands, raster: Raster) -> None:
    import rasterio
    from rasterio.windows import Window as Cut
    from rasterio.windows import transform

    with opened(source, bands.chosen) as file:
        nodata = file.nodata if bands.nodata is None else bands.nodata
        crs, place = file.crs, transform(Cut(*part.extent), file.transform)
    if bands.stretch is not None:
        nodata = None  # it was of the values before
    pixels = part.padded(raster.pixels, 0)
    missing = raster.missing
    assert missing is not None
    if nodata is not None:
        pixels = np.where(missing, np.array(nodata).astype(pixels.dtype), pixels)
    profile: dict[str, Any] = dict(
        driver='GTiff',
        height=pixels.shape[0],
        width=pixels.shape[1],
        count=pixels.shape[2],
        dtype=pixels.dtype,
        crs=crs,
        transform=place,
        nodata=nodata,
        compress='deflate',
        photometric='minisblack',
    )
    with (
        whole(target) as unfinished,
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(unfinished, 'w', **profile) as written,
    ):
        written.write(np.moveaxis(pixels, 2, 0))
        lost = missing.any(2) if bands.stretch is not None else missing.all(2)
        if nodata is None and lost.any():
            written.write_mask(~lost)


def write_map(
    images: Iterable[Path],
    source: Path,
    target: Path,
    part: Part,
    bands: Bands | None,
    rule: MapRule | None,
    ignored: int = IGNORED,
) -> None:
    """Write a part of a label map, with pixels ignored where it is outside or has no data.

    Args:
        images: images that it is of, two for a change map.
        source: file of the map.
        target: file to write, PNG.
        part: part of the image.
        bands: bands that are taken from the images; None for 8-bit RGB.
        rule: meaning of the values, to write labels; None to keep the values.
        ignored: value to write for ignored pixels.
    """
    x, y, width, height = part.extent
    labels = _labels(source, part.size, rule)[y : y + height, x : x + width].copy()
    outside = part.outside()
    if outside is not None:
        labels[outside] = IGNORED
    for image in images if bands is not None else ():
        assert bands is not None
        raster = read_bands(image, bands.chosen, bands.nodata, window=part.extent)
        if raster.missing is not None:
            labels[raster.missing.all(2)] = IGNORED
    labels[labels == IGNORED] = ignored
    write_png(target, part.padded(labels, ignored))


@functools.lru_cache(maxsize=1)  # the tiles of an image come one after the other
def _pixels(path: Path) -> np.ndarray:
    return read_image(path)


def _labels(path: Path, size: tuple[int, int], rule: MapRule | None) -> np.ndarray:
    return read_map(path) if rule is None else rule.read(path, size)


def ground_sampling_distance(images: Sequence[Path]) -> float | None:
    """Return the median size of a pixel on the ground in metres; None if it is unknown.

    GeoTIFFs say it, of which some, evenly spread, are read.
    """
    tiffs = [path for path in images if path.suffix.lower() in ('.tif', '.tiff')]
    found = []
    for path in tiffs[:: math.ceil(len(tiffs) / SAMPLED) or 1]:
        try:
            with opened(path, ()) as source:
                found.append(pixel_in_metres(source))
        except UnusableFileError:  # without rasterio, 8-bit RGB is imported all the same
            continue
    known = [side for side in found if side is not None]
    return float(f'{median(known):.4g}') if known else None


def pixel_in_metres(source: Any) -> float | None:
    """Return the side of a pixel on the ground, at the centre of an open file of rasterio.

    Returns:
        float: metres; the root of the area where a pixel is no square. None without a place, and
        in an engineering system, which is neither of degrees nor projected.
    """
    on_map = source.crs and (source.crs.is_geographic or source.crs.is_projected)
    if not on_map or source.transform.is_identity:
        return None
    side = math.sqrt(abs(source.transform.determinant))
    if source.crs.is_projected:
        return side * source.crs.linear_units_factor[1]
    latitude = (source.bounds.bottom + source.bounds.top) / 2
    return side * 111_320 * math.sqrt(max(math.cos(math.radians(latitude)), 0))
