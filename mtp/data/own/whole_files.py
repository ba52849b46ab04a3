"""Whether an image is whole: a header, which gives the size, says nothing of a file cut short."""

from pathlib import Path
from typing import BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mtp.data.decoding import read_image, read_stored
from mtp.files import UnusableFileError

# first bytes of a file -> its last ones, but for zeros and line ends
_ENDS = {b'\xff\xd8': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82'}
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_OFFSETS = ((273, 279), (324, 325))  # tags of where strips, or tiles, begin, and of their lengths
_TAIL = 4096  # bytes


def check_whole(path: Path) -> None:
    """Refuse an image that is cut short, which would stop a training when its turn comes.

    Only what does not end as its kind does is decoded: some programs write other data behind.

    Raises:
        UnusableFileError: the file is cut short.
    """
    with open(path, 'rb') as file:
        start = file.read(16)
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read().rstrip(b'\0\r\n')
        if start.startswith(_TIFF):
            end = _end_of_pixels(file, start)
            if end > size:
                raise UnusableFileError(
                    f'{path} is cut short: it has {size:,} bytes, and its pixels end at byte '
                    f'{end:,}. Copy or make it again'
                )
            return
    if any(start.startswith(first) and tail.endswith(last) for first, last in _ENDS.items()):
        return
    read_stored(path)
    if start.startswith(b'\xff\xd8'):
        read_image(path)  # training's decoder refuses some that Pillow fills with grey


def _end_of_pixels(file: BinaryIO, start: bytes) -> int:
    """Return the byte at which the pixels of a TIFF end; 0 where its directory does not say."""
    try:
        directory = ImageFileDirectory_v2(start[: 16 if 43 in start[2:4] else 8])
        file.seek(directory.next)
        directory.load(file)
        return max(
            (
                int(offset) + int(length)
                for offsets, lengths in _OFFSETS
                for offset, length in zip(directory.get(offsets, ()), directory.get(lengths, ()))
            ),
            default=0,
        )
    except Exception:  # damaged: who reads the size says so
        return 0
