"""Decoding of images and label maps, with the fastest decoder for each kind of file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from kornia_rs import io as kornia
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mtp.data.values import check_pixels
from mtp.files import UnusableFileError

# An image that has so many times the pixels that its labels are for is not decoded.
MAX_GROWTH = 4
_UNREADABLE = (
    '{path} is missing or no readable image: restore the file, or find all such files with '
    'tools/data/check_dataset.py'
)
_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8'
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start of a frame, which has the size
_JPEG_ALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_GREY, _RGB = 0, 2  # colour types of PNG
_ORIENTATION = 0x0112  # tag of EXIF


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image as training sees it: uint8 ``(H, W, 3)``, RGB, rotated by its EXIF orientation.

    The pixels equal OpenCV's; grey, 16-bit and palette images are converted as OpenCV does.

    Args:
        path: path of the file.
        size: height and width in pixels that its labels are for; None if they are unknown.

    Raises:
        UnusableFileError: the file is missing, damaged, not an image or too large.
    """
    with naming_faults(path):
        data = Path(path).read_bytes()
        check_header(path, BytesIO(data), size)
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


def check_header(path: str | Path, file: BinaryIO, size: tuple[int, int] | None = None) -> None:
    """Refuse an image that is too large, by its header alone: decoding it could take all memory.

    Args:
        path: path of the image, for the message.
        file: content of the image, from its beginning.
        size: height and width in pixels that its labels are for; None if they are unknown.

    Raises:
        UnusableFileError: it is larger than any image of the data sets, or more than
            ``MAX_GROWTH`` times as large as its labels say.
    """
    found = header_size(file)
    if found is None:
        return  # its decoder says what it is
    height, width = found
    check_pixels(height, width, path)
    if size is not None and height * width > MAX_GROWTH * size[0] * size[1]:
        raise UnusableFileError(
            f'{path} has (height, width) {found}, but its labels are for {size}: restore the '
            'file, or make the labels again from this image'
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


def header_size(file: BinaryIO) -> tuple[int, int] | None:
    """Read height and width from the header of an image; None if it is of an unknown kind."""
    start = file.read(26)
    file.seek(0)
    if start.startswith(_PNG):
        return _png_size(start) if len(start) == 26 else None
    if start.startswith(_JPEG):
        return _jpeg_size(file)
    try:
        with _of_any_size(), Image.open(file) as image:
            return image.height, image.width
    except Exception:  # Pillow does not read all kinds of TIFF
        return _tiff_size(file, start)


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


def _tiff_size(file: BinaryIO, start: bytes) -> tuple[int, int] | None:
    """Read the size from the first directory of a TIFF."""
    if start[:4] not in _TIFF:
        return None
    header = start[: 16 if start[2] == 43 or start[3] == 43 else 8]
    try:
        directory = ImageFileDirectory_v2(header)
        file.seek(directory.next)
        directory.load(file)
        return int(directory[_TIFF_HEIGHT]), int(directory[_TIFF_WIDTH])
    except Exception:  # damaged: OpenCV refuses it, and has a limit of its own
        return None


def read_orientation(path: Path) -> int:
    """Read the EXIF orientation by which training rotates an image: 1 (as stored) to 8.

    From 5 on, height and width are swapped.
    """
    try:
        with _of_any_size(), Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a TIFF of a kind that Pillow does not read, or damaged EXIF data
        return 1
    return orientation if orientation in range(1, 9) else 1


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
