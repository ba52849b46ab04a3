"""Decoding of images and label maps, with the fastest decoder for each kind of file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from kornia_rs import io as kornia
from PIL import Image

_PNG = b'\x89PNG\r\n\x1a\n'
_GREY, _RGB = 0, 2  # colour types of PNG
_ORIENTATION = 0x0112  # tag of EXIF


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as training sees it: uint8 ``(H, W, 3)``, RGB, rotated by its EXIF orientation.

    The pixels equal OpenCV's; grey, 16-bit and palette images are converted as OpenCV does.

    Raises:
        ValueError: the file is missing, damaged or not an image.
    """
    try:
        data = Path(path).read_bytes()
        if _is_png(data, _RGB):
            return kornia.decode_image_png_u8(data, _png_size(data), 'rgb')
        if data.startswith(b'\xff\xd8') and b'Exif' not in data[:4096]:
            return kornia.decode_image_jpegturbo(data, 'rgb')
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError('OpenCV cannot decode it')
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except Exception as error:  # whatever the system or a decoder raises
        raise _unreadable(path) from error


def read_map(path: str | Path) -> np.ndarray:
    """Read a label map as stored: uint8 ``(H, W)`` if it is a grey or palette PNG.

    Raises:
        ValueError: the file is missing, damaged or not an image.
    """
    try:
        data = Path(path).read_bytes()
        if _is_png(data, _GREY):
            return kornia.decode_image_png_u8(data, _png_size(data), 'mono')[..., 0]
        with Image.open(path) as image:
            return np.array(image)
    except Exception as error:
        raise _unreadable(path) from error


def read_stored(path: Path) -> np.ndarray:
    """Read an image or a label of any size as stored, in its own dtype, without EXIF rotation.

    Returns:
        Pixels ``(H, W)``, or ``(H, W, 3)`` RGB, also of palette images; transparency is dropped.

    Raises:
        ValueError: the file is missing, not an image, or truncated.
    """
    try:
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
    except (OSError, SyntaxError, ValueError, cv2.error) as error:
        raise ValueError(f'{path} is missing or no whole image: {error}') from error
    return np.ascontiguousarray(pixels)


def read_size(path: Path) -> tuple[int, int]:
    """Read the height and width of an image as stored, from its header alone.

    Raises:
        ValueError: the file is missing or not an image.
    """
    try:
        with _of_any_size(), Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise ValueError(f'{path} is missing or no image: {error}') from error


def read_orientation(path: Path) -> int:
    """Read the EXIF orientation by which training rotates an image: 1 (as stored) to 8.

    From 5 on, height and width are swapped.
    """
    try:
        with _of_any_size(), Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError):  # a TIFF of a kind that Pillow does not read
        return 1
    return orientation if orientation in range(1, 9) else 1


def check_unturned(path: Path) -> None:
    """Refuse an image that training would rotate: its labels refer to the stored pixels.

    Raises:
        ValueError: the image has an EXIF orientation other than 1.
    """
    orientation = read_orientation(path)
    if orientation != 1:
        raise ValueError(
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


def _unreadable(path: str | Path) -> ValueError:
    return ValueError(
        f'{path} is missing or no readable image: restore the file, or find all such '
        'files with tools/data/check_dataset.py'
    )
