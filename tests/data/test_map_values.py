"""Label maps of all kinds of values: read by one rule, or refused with the values."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mtp.data import LoadClassMap, LoadImage, SegmentationDataset
from mtp.data.map_values import count_values

TWO, THREE = ('ground', 'building'), ('ground', 'water', 'forest')


def grey(*values, dtype=np.uint8):
    return np.resize(np.array(values, dtype), (8, 12))


def save(path: Path, content) -> Path:
    """Write an image; ``content`` is an array (RGB), a Pillow image or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Image.Image):
        content.save(path)
    elif content.dtype in (np.uint8, np.uint16):
        cv2.imwrite(str(path), content if content.ndim == 2 else content[..., ::-1])
    else:
        Image.fromarray(content).save(path)
    return path


def two_bits():
    """A grey PNG of 2 bits a pixel, 8 x 12, with the values 0, 1, 2 in turn."""

    def chunk(kind, data):
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    head = struct.pack('>IIBBBBB', 12, 8, 2, 0, 0, 0, 0)
    rows = zlib.compress(bytes([0, 0x18, 0x61, 0x86]) * 8)
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        chunk(*part) for part in ((b'IHDR', head), (b'IDAT', rows), (b'IEND', b''))
    )


def palette(*indices, colours=(0, 0, 0, 128, 0, 0, 255, 0, 0)):
    image = Image.fromarray(grey(*indices)).convert('P')
    image.putdata(grey(*indices).ravel().tolist())
    image.putpalette(colours)
    return image


def colours(*hexes):
    return np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in hexes], np.uint8)[
        np.resize(np.arange(len(hexes)), (8, 12))
    ]


def read(root, label_map, classes=TWO, suffix='.png', **options):
    save(root / 'train' / 'images' / 'a b.1.tif', np.zeros((8, 12, 3), np.uint8))
    save(root / 'train' / 'labels' / f'a b.1{suffix}', label_map)
    data = SegmentationDataset(str(root), 'train', classes, **options)
    info = dict(data.get_data_info(0), ori_shape=(8, 12))
    found = LoadClassMap(len(classes)).transform(info)['gt_seg_map']
    return list(dict.fromkeys(found.ravel().tolist())), ' '.join(data.tally.notes)


@pytest.mark.parametrize(
    ('label_map', 'classes', 'labels'),
    [
        (grey(0, 1), TWO, [0, 1]),
        (grey(0, 255), TWO, [0, 1]),
        (grey(0, 1, 255), TWO, [0, 1, 255]),
        (grey(0, 255), THREE, [0, 255]),
        (grey(0, 1, 2, 255), THREE, [0, 1, 2, 255]),
        (grey(0, 65535, dtype=np.uint16), TWO, [0, 1]),
        (grey(0, 1, dtype=np.uint16), TWO, [0, 1]),
        (Image.fromarray(grey(0, 255)).convert('1'), TWO, [0, 1]),
        (palette(0, 1), TWO, [0, 1]),
        (palette(0, 1, 2), THREE, [0, 1, 2]),
        (two_bits(), THREE, [0, 1, 2]),
        (colours('000000', 'ffffff'), TWO, [0, 1]),
    ],
)
def test_values_that_speak_for_themselves(tmp_path, label_map, classes, labels):
    found, notes = read(tmp_path, label_map, classes)
    assert found == labels
    assert 'are read as label_values={' in notes


def test_other_formats(tmp_path):
    path = save(tmp_path / 'nodata.tif', Image.fromarray(grey(0, 1, 9)))
    Image.open(path).save(path, tiffinfo={42113: '9'})
    for content in (grey(0, 1, np.nan, dtype=np.float32), path.read_bytes()):
        found, notes = read(tmp_path, content, suffix='.tif')
        assert found == [0, 1, 255] and '32 pixels in 1 files have the nodata value' in notes
    found, notes = read(tmp_path / 'jpeg', grey(0, 255).repeat(8, 1)[:, :12], suffix='.jpg')
    assert found == [0, 1] and 'cut at 128' in notes


GIVEN = {1: 'ground', 2: 'Building', 7: None}
COLOURS = {'#FFFFFF': 'ground', '#0000ff': 'building'}


@pytest.mark.parametrize(
    ('label_map', 'given', 'labels'),
    [
        (grey(1, 2, 7), GIVEN, [0, 1, 255]),
        (grey(1, 2, 255), {'1': 'ground', '2': 'building'}, [0, 1, 255]),
        (grey(0, 255), {0: 'building', 255: 'ground'}, [1, 0]),
        (colours('ffffff', '0000ff'), COLOURS, [0, 1]),
        (grey(-1, 5, dtype=np.int32), {-1: None, 5: 'building'}, [255, 1]),
    ],
)
def test_values_that_the_config_names(tmp_path, label_map, given, labels):
    suffix = '.tif' if getattr(label_map, 'dtype', None) == np.int32 else '.png'
    assert read(tmp_path, label_map, label_values=given, suffix=suffix)[0] == labels


@pytest.mark.parametrize(
    ('label_map', 'classes', 'match'),
    [
        (grey(1, 2), TWO, r"1 in 1 files \(48 pixels\), 2 .*={1: 'ground', 2: 'building'}"),
        (grey(0, 100), TWO, r"={0: 'ground', 100: 'building'}"),
        (grey(0, 1, 2), TWO, r"={0: '...', 1: '...', 2: '...'}"),
        (grey(0, 255, dtype=np.uint16), TWO, r"={0: 'ground', 255: 'building'}"),
        (grey(0, 256, dtype=np.uint16), THREE, '256 in 1 files'),
        (colours('000000', 'ff0000'), TWO, r"={'#000000': 'ground', '#ff0000': 'building'}"),
    ],
)
def test_values_without_one_meaning(tmp_path, label_map, classes, match):
    with pytest.raises(ValueError, match=rf'a b.1.png and other label maps .*{match}'):
        read(tmp_path, label_map, classes)


def test_files_that_are_no_label_maps(tmp_path):
    for content, suffix, match in (
        (grey(0, 100).repeat(8, 1)[:, :12], '.jpg', 'save the label maps as png'),
        (grey(0.5, dtype=np.float32), '.tif', r'a b.1.tif .* it holds 0.5'),
        (np.zeros((8, 12, 3), np.uint16), '.png', 'colours of 16 bits'),
        (b'no image', '.png', r'a b.1.png is missing or no readable label map'),
    ):
        with pytest.raises(ValueError, match=match):
            read(tmp_path / suffix / match[:3], content, THREE, suffix)
    with pytest.raises(ValueError, match=r'the greatest is \d: save them as png'):
        read(tmp_path / 'dark', grey(0, 1), TWO, '.jpg')
    with pytest.raises(ValueError, match="'red' is no value"):
        read(tmp_path / 'key', grey(0, 1), TWO, label_values={'red': 'ground'})
    with pytest.raises(ValueError, match='did you mean building'):
        read(tmp_path / 'name', grey(0, 1), TWO, label_values={0: 'ground', 1: 'buildin'})


def test_a_turned_image_does_not_fit_its_label_map(tmp_path):
    read(tmp_path, grey(0, 1))
    path = tmp_path / 'train' / 'images' / 'a b.1.tif'
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new('RGB', (12, 8)).save(path.with_suffix('.jpg'), exif=exif)
    path.unlink()
    data = SegmentationDataset(
        str(tmp_path),
        'train',
        TWO,
        pipeline=[dict(type=LoadImage), dict(type=LoadClassMap, num_classes=2)],
    )
    with pytest.raises(ValueError, match=r'a b.1.jpg has the EXIF orientation 3'):
        data[0]


def test_all_splits_are_judged_together(tmp_path):
    """A map of 0 alone is that of the others; the other split's values count."""
    save(tmp_path / 'val' / 'labels' / '1.png', grey(0, 255))
    assert "255: 'building'" in read(tmp_path, grey(0))[1]
    save(tmp_path / 'val' / 'labels' / '1.png', grey(0, 7))
    with pytest.raises(ValueError, match=r'val/labels/1.png and other .*, 7 in 1 files'):
        read(tmp_path, grey(0))
    (tmp_path / 'val' / 'labels' / '1.png').unlink()
    assert "hold one class only, 'ground'" in read(tmp_path, grey(0))[1]
    assert 'no label map of' in read(tmp_path, grey(0, 1), THREE)[1]


def test_the_index_of_values(tmp_path, monkeypatch):
    """It is made once, again when a file changes, and elsewhere if the folder is read-only."""
    root = tmp_path / 'data'
    path = save(root / 'train' / 'labels' / '1.png', grey(0, 1))
    monkeypatch.setenv('MTP_HOME', str(tmp_path / 'home'))
    assert set(count_values(root, [path.parent])['uint8']) == {0, 1}
    with monkeypatch.context() as patch:
        patch.setattr('mtp.data.map_values.count_file', None)
        assert set(count_values(root, [path.parent])['uint8']) == {0, 1}
    save(path, grey(0, 5))
    os.utime(path, (1, 1))
    assert set(count_values(root, [path.parent])['uint8']) == {0, 5}
    assert not (tmp_path / 'home').exists()
    readable = os.access
    monkeypatch.setattr(os, 'access', lambda p, m: str(root) not in str(p) and readable(p, m))
    save(path, grey(0, 6, 7))
    assert set(count_values(root, [path.parent])['uint8']) == {0, 6, 7}
    assert any((tmp_path / 'home' / 'index').iterdir())


def test_pairs_of_files(tmp_path):
    for name in ('images/area/1.JPG', 'images/2.png', 'images/1.png.aux.xml', 'labels/area/1.png'):
        save(tmp_path / 'train' / name, grey(0, 1) if name[-1] == 'g' else b'')
    with pytest.raises(ValueError, match=r'labels lacks 1 of 2 images: 2\.'):
        SegmentationDataset(str(tmp_path), 'train', TWO)
    save(tmp_path / 'train' / 'labels' / '2.tif', grey(0, 1))
    data = SegmentationDataset(str(tmp_path), 'train', TWO)
    assert [Path(r['img_path']).name for r in data.load_data_list()] == ['2.png', '1.JPG']
    assert data.tally.summary() == 'images 2, left out 1: files that are no images'
    assert len(data.metainfo['palette']) == 2
    save(tmp_path / 'train' / 'images' / '2.tif', grey(0))
    with pytest.raises(ValueError, match=r'images/2.png and .*images/2.tif have one name'):
        SegmentationDataset(str(tmp_path), 'train', TWO)
