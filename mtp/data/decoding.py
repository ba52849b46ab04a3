"""Files -> pixels, by the decoder that was fastest on each kind; see docs/performance.md."""
from pathlib import Path

import cv2
import numpy as np
from kornia_rs import io as kornia
from PIL import Image

_PNG = b'\x89PNG\r\n\x1a\n'
_GREY, _RGB = 0, 2  # colour types of PNG


def read_image(path: str) -> np.ndarray:
    """An image as uint8 ``(H, W, 3)``, RGB.

    The pixels are those of OpenCV, and so is what happens to grey, 16-bit, palette or rotated
    (EXIF) images.

    Raises:
        ValueError: the file is missing, damaged or no image.
    """
    try:
        data = Path(path).read_bytes()
        if _is_png(data, _RGB):
            return kornia.decode_image_png_u8(data, _png_size(data), 'rgb')
        if data.startswith(b'\xff\xd8') and b'Exif' not in data[:4096]:
            return kornia.decode_image_jpegturbo(data, 'rgb')
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except Exception as error:  # whatever the system or a decoder raises
        raise _unreadable(path) from error


def read_map(path: str) -> np.ndarray:
    """A label map as its file holds it: uint8 ``(H, W)`` if it is a grey or palette PNG.

    Raises:
        ValueError: the file is missing, damaged or no image.
    """
    try:
        data = Path(path).read_bytes()
        if _is_png(data, _GREY):
            return kornia.decode_image_png_u8(data, _png_size(data), 'mono')[..., 0]
        with Image.open(path) as image:
            return np.array(image)
    except Exception as error:
        raise _unreadable(path) from error


def _is_png(data: bytes, colour_type: int) -> bool:
    """Whether this is a PNG of 8 bits, of that colour type and without a transparent colour."""
    return (data.startswith(_PNG) and data[24:26] == bytes((8, colour_type))
            and b'tRNS' not in data[:data.find(b'IDAT')])


def _png_size(data: bytes) -> tuple[int, int]:
    """Height and width."""
    return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')


def _unreadable(path: str) -> ValueError:
    return ValueError(f'{path} is missing or no readable image: restore the file, or find all such '
                      'files with tools/data/check_dataset.py')
