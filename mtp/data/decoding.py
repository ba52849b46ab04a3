"""Decoding of images and label maps, with the fastest decoder for each kind of file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from kornia_rs import io as kornia
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from mtp.data.values import check_pixels
from mtp.files import UnusableFileError

# An image that has so many times the pixels that its labels are for is not decoded.
MAX_GROWTH = 4
# Kinds of label maps by their stored values, and the maximum of each type that has one.
MAP_KINDS = dict(uint8=255, uint16=65535, bool=1, int=None, rgb=None, jpeg=None)
_UNREADABLE = (
    '{path} is missing or no readable image: restore the file, or find all such files with '
    '`mtp data check`'
)
_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8'
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start of a frame, which has the size
_JPEG_ALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_BITS, _TIFF_COLOURS, _TIFF_SAMPLES, _TIFF_EXTRA = 258, 262, 277, 338
_TIFF_CONVERTED = (3, 5, 6)  # a palette, CMYK and YCbCr become three colours
_GREY, _RGB = 0, 2  # colour types of PNG
_PNG_BANDS = {0: 1, 4: 1}  # colour types of PNG that are grey
_ORIENTATION = 0x0112  # tag of EXIF
_NODATA = 42113  # tag of GeoTIFF, by GDAL


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image as training sees it: uint8 ``(H, W, 3)``, RGB, rotated by its EXIF orientation.

    The pixels equal OpenCV's; grey and palette images are converted as OpenCV does.

    Args:
        path: path of the file.
        size: height and width in pixels that its labels are for; None if they are unknown.

    Raises:
        UnusableFileError: the file is missing, damaged, not an image, too large, or has other bands
            than grey or three colours of 8 bits.
    """
    with naming_faults(path):
        data = Path(path).read_bytes()
        check_image(path, BytesIO(data), size)
        if _is_png(data, _RGB):
            return kornia.decode_image_png_u8(data, _png_size(data), 'rgb')
        if data.startswith(_JPEG) and b'Exif' not in data[:4096]:
            return kornia.decode_image_jpegturbo(data, 'rgb')
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError('OpenCV cannot decode it')
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_map(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a label map as stored: uint8 ``(H, W)`` if it is a grey or palette PNG.

    Args:
        path: path of the file.
        size: height and width of its image in pixels; None if they are unknown.

    Raises:
        UnusableFileError: the file is missing, damaged, not an image or too large.
    """
    with naming_faults(path):
        data = Path(path).read_bytes()
        check_header(path, BytesIO(data), size)
        if _is_png(data, _GREY):
            return kornia.decode_image_png_u8(data, _png_size(data), 'mono')[..., 0]
        with _of_any_size(), Image.open(BytesIO(data)) as image:
            return np.array(image)


def read_stored(path: Path) -> np.ndarray:
    """Read an image or a label of any size as stored, in its own dtype, without EXIF rotation.

    Returns:
        Pixels ``(H, W)``, or ``(H, W, 3)`` RGB, also of palette images; transparency is dropped.

    Raises:
        UnusableFileError: the file is missing, not an image, truncated or too large.
    """
    with naming_faults(path, '{path} is missing or no whole image: {error}'):
        check_file(path)
        if path.suffix.lower() in ('.tif', '.tiff'):  # Pillow reads only some kinds of TIFF
            pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
            if pixels is None:
                raise ValueError('OpenCV cannot decode it')
            pixels = pixels[..., :3][..., ::-1] if pixels.ndim == 3 else pixels
        else:
            with _of_any_size(), Image.open(path) as image:
                if image.mode in ('1', 'P'):
                    image = image.convert('L' if image.mode == '1' else 'RGB')
                pixels = np.asarray(image)
            if pixels.ndim == 3:
                pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
        return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class StoredMap:
    """Values of a label map as they are stored: grey values, or indices of a palette.

    Attributes:
        kind: kind of the values, a key of :data:`MAP_KINDS`.
        values: values ``(H, W)``, of an integer dtype; colours are ``0xRRGGBB``.
        missing: pixels with the nodata value of a GeoTIFF, or NaN, bool ``(H, W)``; None if the
            file has none.
    """

    kind: str
    values: np.ndarray
    missing: np.ndarray | None = None


def read_map_values(path: str | Path, size: tuple[int, int] | None = None) -> StoredMap:
    """Read the values of a label map as they are stored; transparency is dropped.

    Args:
        path: path of the file.
        size: height and width of its image in pixels; None if they are unknown.

    Raises:
        UnusableFileError: the file is missing, damaged, not an image or too large, or its values
            are no integers.
    """
    with naming_faults(path, '{path} is missing or no readable label map: {error}'):
        data = Path(path).read_bytes()
        check_header(path, BytesIO(data), size)
        if _is_png(data, _GREY):
            return StoredMap(
                'uint8', kornia.decode_image_png_u8(data, _png_size(data), 'mono')[..., 0]
            )
        try:
            with _of_any_size(), Image.open(BytesIO(data)) as image:
                return _stored_map(*_stored(image), _nodata(image))
        except UnidentifiedImageError:  # a TIFF of a kind that Pillow does not read
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if pixels is None:
                raise
            return _stored_map('', pixels[..., ::-1] if pixels.ndim == 3 else pixels, None)


def _stored(image: ImageFile) -> tuple[str, np.ndarray]:
    """Return the kind of a label map where its format decides it, and its pixels."""
    arguments = image.tile[0][3] if image.tile else None
    raw = str(arguments[0] if isinstance(arguments, tuple) else arguments)  # e.g. 'RGB;16N'
    if image.format == 'JPEG' or image.info.get('compression') == 'jpeg':
        return 'jpeg', np.array(image.convert('L'))
    if image.mode in ('RGB', 'RGBA') and ';16' in raw:
        raise ValueError('it has colours of 16 bits; colours of 8 bits are read')
    pixels = np.array(image)
    if image.mode == 'L' and raw[:3] in ('L;2', 'L;4'):
        pixels //= 255 // (2 ** int(raw[2]) - 1)  # Pillow spreads them over 0 to 255
    return '', pixels


def _stored_map(kind: str, pixels: np.ndarray, nodata: float | None) -> StoredMap:
    """Return the values of a label map, one per pixel.

    Args:
        kind: kind where the format of the file decides it, else empty.
        pixels: pixels as stored, ``(H, W)`` or ``(H, W, N)``, RGB.
        nodata: value of pixels without data; None if there is none.

    Raises:
        ValueError: they have other bands, or are no integers.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = pixels[..., 0]  # grey and alpha, or a palette and alpha
    if kind:
        return StoredMap(kind, pixels)
    if pixels.ndim == 3:
        if pixels.dtype != np.uint8 or pixels.shape[2] not in (3, 4):
            raise ValueError(
                f'it has {pixels.shape[2]} bands of type {pixels.dtype}: save it with one band, or '
                'as RGB of 8 bits'
            )
        red, green, blue = (pixels[..., band].astype(np.int32) for band in range(3))
        return StoredMap('rgb', red << 16 | green << 8 | blue)
    missing = None if nodata is None else pixels == nodata
    if pixels.dtype.kind == 'f':
        missing = np.isnan(pixels) | (pixels == nodata)
        pixels = np.where(missing, 0, pixels)
        wrong = pixels[~(np.abs(pixels) < 2**31) | (pixels % 1 != 0)]
        if wrong.size:
            raise ValueError(f'it holds {wrong[0]}: the values of a label map are integers')
        pixels = pixels.astype(np.int32)
    kind = pixels.dtype.name if pixels.dtype in (bool, np.uint8, np.uint16) else 'int'
    return StoredMap(kind, pixels.astype(np.uint8) if kind == 'bool' else pixels, missing)


def read_size(path: Path) -> tuple[int, int]:
    """Read the height and width of an image as stored, from its header alone.

    Raises:
        UnusableFileError: the file is missing, not an image or too large.
    """
    with (
        naming_faults(path, '{path} is missing or no image: {error}'),
        _of_any_size(),
        Image.open(path) as image,
    ):
        check_pixels(image.height, image.width, path)
        return image.height, image.width


def check_file(path: str | Path, size: tuple[int, int] | None = None) -> None:
    """Check the header of a file; see :func:`check_header`."""
    with open(path, 'rb') as file:
        check_header(path, file, size)


def check_header(
    path: str | Path, file: BinaryIO, size: tuple[int, int] | None = None
) -> 'Header | None':
    """Refuse an image that is too large, by its header alone: decoding it could take all memory.

    Args:
        path: path of the image, for the message.
        file: content of the image, from its beginning.
        size: height and width in pixels that its labels are for; None if they are unknown.

    Returns:
        Its header; None if it is of an unknown kind.

    Raises:
        UnusableFileError: it is larger than any image of the data sets, or more than
            ``MAX_GROWTH`` times as large as its labels say.
    """
    header = read_header(file)
    if header is not None:  # else its decoder says what it is
        check_extent(path, header.size, size)
    return header


def check_extent(path: str | Path, found: tuple[int, int], size: tuple[int, int] | None) -> None:
    """Refuse an image that is too large; arguments and errors are those of :func:`check_header`.

    Args:
        path: path of the image, for the message.
        found: height and width of the image, pixels.
        size: height and width in pixels that its labels are for; None if they are unknown.
    """
    height, width = found
    check_pixels(height, width, path)
    if size is not None and height * width > MAX_GROWTH * size[0] * size[1]:
        raise UnusableFileError(
            f'{path} has (height, width) {found}, but its labels are for {size}: restore the '
            'file, or make the labels again from this image'
        )


def check_image(path: str | Path, file: BinaryIO, size: tuple[int, int] | None = None) -> None:
    """Refuse, by its header alone, what OpenCV would cut to three bands of 8 bits.

    Args:
        path: path of the image, for the message.
        file: content of the image, from its beginning.
        size: height and width in pixels that its labels are for; None if they are unknown.

    Raises:
        UnusableFileError: as in :func:`check_header`, or it has more than 8 bits a band, or other
            bands than grey or three colours; a band marked as alpha does not count.
    """
    header = check_header(path, file, size)
    if header is None:
        return
    if header.bits > 8:
        raise UnusableFileError(
            f'{path} has {header.bits} bits a band, and would be cut to 8: convert it to 8 bits '
            '(gdal_translate -ot Byte -scale), or load its values by mtp.data.LoadBands'
        )
    if header.bands not in (1, 3):
        raise UnusableFileError(
            f'{path} has {header.bands} bands, none of them marked as alpha, and would be cut to '
            '3: keep three (gdal_translate -b 1 -b 2 -b 3), or load the bands by mtp.data.LoadBands'
        )


def read_deep(path: str | Path) -> np.ndarray | None:
    """Read a label map of more than 8 bits as stored; None for all other images.

    Raises:
        UnusableFileError: the file is missing, damaged or not an image.
    """
    with naming_faults(path), _of_any_size():
        try:
            image = Image.open(path)
        except UnidentifiedImageError:
            return None  # its decoder says what it is
        with image:
            return np.asarray(image) if image.mode.startswith(('I', 'F')) else None


def read_nodata(path: str | Path) -> float | None:
    """Return the value of pixels without data that a GeoTIFF names; None if there is none."""
    if Path(path).suffix.lower() not in ('.tif', '.tiff'):
        return None
    try:
        with _of_any_size(), Image.open(path) as image:
            return _nodata(image)
    except OSError:  # its decoder says what it is
        return None


def _nodata(image: Image.Image) -> float | None:
    """Return the value of pixels without data that a GeoTIFF names; None if there is none."""
    text = getattr(image, 'tag_v2', {}).get(_NODATA)
    try:
        return None if text is None else float(str(text).strip('\0 '))
    except ValueError:
        return None


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        size: height and width in pixels.
        bits: bits of a band.
        bands: number of bands, without one that is marked as alpha; those of a palette's colours.
    """

    size: tuple[int, int]
    bits: int = 8
    bands: int = 3


def read_header(file: BinaryIO) -> Header | None:
    """Read the header of an image; None if it is of an unknown kind."""
    start = file.read(26)
    file.seek(0)
    if start.startswith(_PNG):
        if len(start) < 26:
            return None
        return Header(_png_size(start), bits=start[24], bands=_PNG_BANDS.get(start[25], 3))
    if start.startswith(_JPEG):
        size = _jpeg_size(file)
        return None if size is None else Header(size)
    try:
        with _of_any_size(), Image.open(file) as image:
            size = image.height, image.width
            if isinstance(image, TiffImageFile):
                return _tiff_header(image.tag_v2, size)
            return Header(size, bits=16 if image.mode.startswith(('I', 'F')) else 8)
    except Exception:  # Pillow does not read all kinds of TIFF
        return _tiff_directory(file, start)


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Read the size from the first frame of a JPEG."""
    file.seek(2)
    while True:
        marker = file.read(2)
        if len(marker) < 2 or marker[0] != 0xFF:
            return None
        if marker[1] == 0xFF:  # padding
            file.seek(-1, os.SEEK_CUR)
        elif marker[1] in _JPEG_FRAMES:
            frame = file.read(7)
            size = int.from_bytes(frame[3:5], 'big'), int.from_bytes(frame[5:7], 'big')
            return size if len(frame) == 7 else None
        elif marker[1] not in _JPEG_ALONE:
            length = int.from_bytes(file.read(2), 'big')
            if length < 2:  # cut short, or damaged: it would be read again and again
                return None
            file.seek(length - 2, os.SEEK_CUR)


def _tiff_directory(file: BinaryIO, start: bytes) -> Header | None:
    """Read the header from the first directory of a TIFF."""
    if start[:4] not in _TIFF:
        return None
    header = start[: 16 if start[2] == 43 or start[3] == 43 else 8]
    try:
        directory = ImageFileDirectory_v2(header)
        file.seek(directory.next)
        directory.load(file)
        size = int(directory[_TIFF_HEIGHT]), int(directory[_TIFF_WIDTH])
        return _tiff_header(directory, size)
    except Exception:  # damaged: OpenCV refuses it, and has a limit of its own
        return None


def _tiff_header(tags: ImageFileDirectory_v2, size: tuple[int, int]) -> Header:
    bands, extra = tags.get(_TIFF_SAMPLES, 1), tags.get(_TIFF_EXTRA, ())
    if tags.get(_TIFF_COLOURS) in _TIFF_CONVERTED:
        bands = 3
    elif {1, 2} & set(extra):
        bands -= 1  # alpha
    return Header(size, max(tags.get(_TIFF_BITS, (1,))), bands)


def read_orientation(path: Path) -> int:
    """Read the EXIF orientation by which training rotates an image: 1 (as stored) to 8.

    From 5 on, height and width are swapped.
    """
    try:
        with open(path, 'rb') as file:
            start = file.read(4096)
        if start.startswith((_PNG, _JPEG)) and not (b'Exif' in start or b'eXIf' in start):
            return 1  # without a decoder: this is asked for each sample
        with _of_any_size(), Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a TIFF of a kind that Pillow does not read, or damaged EXIF data
        return 1
    return orientation if orientation in range(1, 9) else 1


def check_shape(path: str | Path, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Refuse an image whose labels are for another size.

    Args:
        path: path of the image.
        shape: shape of its pixels as training sees them, height and width first.
        size: height and width in pixels that its labels are for.

    Raises:
        UnusableFileError: the sizes differ.
    """
    if shape[:2] == size:
        return
    orientation = read_orientation(Path(path))
    turned = orientation > 4 and shape[1::-1] == size
    raise UnusableFileError(
        f'{path} has shape {shape}, but its labels are for {size}: '
        + (
            f'it is turned by its EXIF orientation {orientation}, and they are for the image as '
            'stored. Remove the orientation (exiftool -Orientation= FILE)'
            if turned
            else 'make the labels again from this image'
        )
    )


def read_turned_size(path: Path) -> tuple[int, int] | None:
    """Read the height and width of an image as training sees it, rotated by its EXIF orientation.

    Only the header is read.

    Returns:
        Height and width in pixels; None if this is no image of a known kind.

    Raises:
        UnusableFileError: it is larger than any image of the data sets.
    """
    with open(path, 'rb') as file:
        header = check_header(path, file)
    if header is None:
        return None
    return header.size[::-1] if read_orientation(path) > 4 else header.size


def check_unturned(path: Path) -> None:
    """Refuse an image that training would rotate: its labels refer to the stored pixels.

    Raises:
        UnusableFileError: the image has an EXIF orientation other than 1.
    """
    orientation = read_orientation(path)
    if orientation != 1:
        raise UnusableFileError(
            f'{path} has the EXIF orientation {orientation}: training would turn it, '
            'but not its labels. Remove the orientation (exiftool -Orientation= FILE)'
        )


@contextmanager
def _of_any_size() -> Iterator[None]:
    # Pillow refuses large images as an attack; those of WHU and DOTA have up to 800 million pixels
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _is_png(data: bytes, colour_type: int) -> bool:
    """Return whether this is a plain 8-bit PNG, without a transparent colour or EXIF data."""
    head = data[: data.find(b'IDAT')]
    return (
        data.startswith(_PNG)
        and data[24:26] == bytes((8, colour_type))
        and b'tRNS' not in head
        and b'eXIf' not in head
    )


def _png_size(data: bytes) -> tuple[int, int]:
    """Return height and width in pixels."""
    return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')


@contextmanager
def naming_faults(path: str | Path, message: str = _UNREADABLE) -> Iterator[None]:
    """Turn what the system or a decoder raises into one error that names the file.

    Args:
        path: path of the image.
        message: message, with ``{path}`` and ``{error}``.
    """
    try:
        yield
    except UnusableFileError:
        raise
    except BaseException as error:
        # kornia's decoder panics with an error that is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != 'PanicException':
            raise
        if isinstance(error, MemoryError):
            message = '{path} takes more memory to decode than is free: cut it into tiles'
        unusable = UnusableFileError(message.format(path=path, error=error))
        unusable.path = str(path)
        raise unusable from error
