"""Decoders that fail in unusual ways, and headers that tell the size of an image."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mtp.data import LoadImage, decoding
from mtp.files import UnusableFileError


class PanicException(BaseException):
    """What a decoder in Rust raises when it panics; it is no Exception."""


@pytest.mark.parametrize('error', [PanicException('capacity overflow'), MemoryError()])
def test_any_fault_of_a_decoder_names_the_file(tmp_path, monkeypatch, error):
    def decode(*_: object) -> None:
        raise error

    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    monkeypatch.setattr(decoding.kornia, 'decode_image_png_u8', decode)
    with pytest.raises(UnusableFileError, match=r'a\.png'):
        decoding.read_image(tmp_path / 'a.png')


def test_an_interruption_is_no_fault_of_the_image(tmp_path):
    with pytest.raises(KeyboardInterrupt), decoding.naming_faults(tmp_path):
        raise KeyboardInterrupt


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'tiff', 'bmp', 'webp', 'ppm'])
def test_size_in_the_header(kind):
    file = io.BytesIO()
    Image.fromarray(np.zeros((12, 34, 3), np.uint8)).save(file, kind)
    file.seek(0)
    header = decoding.read_header(file)
    assert (header.size, header.bits) == ((12, 34), 8) and header.bands == 3


def test_the_header_of_a_jpeg_that_is_cut_short_has_an_end():
    file = io.BytesIO()
    Image.fromarray(np.zeros((12, 34, 3), np.uint8)).save(file, 'jpeg')
    for end in range(1, 200):
        found = decoding.read_header(io.BytesIO(file.getvalue()[:end]))
        assert found is None or found.size == (12, 34)


def test_labels_of_16_bits_do_not_wrap(tmp_path):
    Image.fromarray(np.full((8, 8), 2, np.uint16)).save(tmp_path / 'a.png')
    assert decoding.read_deep(tmp_path / 'a.png').max() == 2  # good values may have 16 bits


@pytest.mark.parametrize(
    ('pixels', 'suffix', 'marked', 'fault'),
    [
        (np.full((8, 8), 61420, np.uint16), '.png', True, '16 bits a band'),
        (np.full((8, 8), 61420, np.uint16), '.tif', True, '16 bits a band'),
        (np.zeros((8, 8), np.float32), '.tif', True, '32 bits a band'),
        (np.zeros((8, 8, 4), np.uint8), '.tif', False, '4 bands, none'),
        (np.zeros((8, 8, 4), np.uint8), '.tif', True, None),
        (np.zeros((8, 8, 4), np.uint8), '.png', True, None),
        (np.zeros((8, 8), bool), '.tif', True, None),
        (np.zeros((8, 8), np.uint8), '.png', True, None),
    ],
)
def test_images_that_would_be_cut(tmp_path, pixels, suffix, marked, fault):
    path = tmp_path / f'a{suffix}'
    if marked:  # as alpha, by Pillow
        Image.fromarray(pixels).save(path)
    else:
        cv2.imwrite(str(path), pixels)
    for read in (decoding.read_image, lambda path: LoadImage().transform(dict(img_path=path))):
        if fault:
            with pytest.raises(UnusableFileError, match=rf'a{suffix} has {fault}'):
                read(str(path))
        else:
            read(str(path))
