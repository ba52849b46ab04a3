"""Files -> pixels, by the decoder that was fastest on each kind; see docs/performance.md."""

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
    """Read an image as training sees it: uint8 ``(H, W, 3)``, RGB, turned as its EXIF data tell.

    The pixels are those of OpenCV, and so is what happens to grey, 16-bit or palette images.

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


def read_map(path: str | Path) -> np.ndarray:
    """Read a label map as its file holds it: uint8 ``(H, W)`` if it is a grey or palette PNG.

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


def read_stored(path: Path) -> np.ndarray:
    """Read an image or a label of any size as stored, not turned by EXIF, in its own dtype.

    Returns:
        ``(H, W)``, or ``(H, W, 3)`` RGB, of a palette too; transparency is left out.

    Raises:
        ValueError: the file is missing, no image, or cut short.
    """
    try:
        if path.suffix.lower() in ('.tif', '.tiff'):  # which Pillow reads only some kinds of
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
    """Read height and width of an image as stored, from the header alone.

    Raises:
        ValueError: no image.
    """
    try:
        with _of_any_size(), Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise ValueError(f'{path} is missing or no image: {error}') from error


def read_orientation(path: Path) -> int:
    """Read how training turns an image: its EXIF orientation, 1 (as stored) to 8.

    From 5 on height and width change places.
    """
    try:
        with _of_any_size(), Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError):  # a TIFF of a kind that Pillow does not read
        return 1
    return orientation if orientation in range(1, 9) else 1


def check_unturned(path: Path) -> None:
    """Refuse an image that training would turn, since its labels are of the stored pixels.

    Raises:
        ValueError: it has an EXIF orientation.
    """
    orientation = read_orientation(path)
    if orientation != 1:
        raise ValueError(
            f'{path} has the EXIF orientation {orientation}: training would turn it, '
            'and not its labels. Store it without (exiftool -Orientation= FILE)'
        )


@contextmanager
def _of_any_size() -> Iterator[None]:
    # Pillow takes large images for an attack; those of WHU and DOTA have up to 800 million pixels
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _is_png(data: bytes, colour_type: int) -> bool:
    """Return whether this is a plain PNG of 8 bits: without a transparent colour and EXIF data."""
    head = data[: data.find(b'IDAT')]
    return (
        data.startswith(_PNG)
        and data[24:26] == bytes((8, colour_type))
        and b'tRNS' not in head
        and b'eXIf' not in head
    )


def _png_size(data: bytes) -> tuple[int, int]:
    """Height and width."""
    return int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big')


def _unreadable(path: str | Path) -> ValueError:
    return ValueError(
        f'{path} is missing or no readable image: restore the file, or find all such '
        'files with tools/data/check_dataset.py'
    )
