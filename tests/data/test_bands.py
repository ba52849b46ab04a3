"""Rasters of any bands and type: read as stored, stretched only on request, measured exactly."""

import sys

import cv2
import numpy as np
import pytest
import rasterio

from mtp.data import LoadBands, LoadImage
from mtp.data.band_transforms import resize_bands
from mtp.data.bands import Stretch, as_picture, measure, read_bands, read_picture, stored_type
from mtp.data.readers.labelled import LoadClassMap
from mtp.data.readers.pairs import LoadChange, LoadPair, SwapDates

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


def write(path, pixels, **options):
    """Write pixels ``(H, W, N)`` as a GeoTIFF."""
    height, width, count = pixels.shape
    with rasterio.open(
        path, 'w', 'GTiff', width, height, count, dtype=pixels.dtype, **options
    ) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return str(path)


def noise(dtype='uint8', bands=5, high=256, size=(37, 53)):
    return np.random.default_rng(0).integers(0, high, (*size, bands)).astype(dtype)


def load(path, **options):
    return LoadBands(**options).transform(dict(img_path=path))


@pytest.mark.parametrize(
    ('dtype', 'high'), [('uint8', 256), ('uint16', 65536), ('int16', 32767), ('float32', 10)]
)
def test_values_are_read_as_stored(tmp_path, dtype, high):
    pixels = noise(dtype, high=high)
    path = write(tmp_path / 'a.tif', pixels)
    assert stored_type(path) == (5, dtype)
    results = load(path, bands=[5, 2], dtype=dtype)
    assert results['img'].dtype == (np.uint8 if dtype == 'uint8' else np.float32)
    np.testing.assert_array_equal(results['img'], pixels[..., [4, 1]])
    assert results['ori_shape'] == results['img_shape'] == (37, 53)


def test_three_bands_of_8_bits_are_those_of_a_png(tmp_path):
    pixels = noise(bands=3)
    cv2.imwrite(str(tmp_path / 'a.png'), pixels[..., ::-1])
    bands = load(write(tmp_path / 'a.tif', pixels), bands=[1, 2, 3])
    image = LoadImage().transform(dict(img_path=str(tmp_path / 'a.png')))
    np.testing.assert_array_equal(bands['img'], image['img'])
    assert bands['img'].dtype == image['img'].dtype
    assert bands['ori_shape'] == image['ori_shape']


def test_the_fourth_band_of_8_bits_is_no_transparency(tmp_path):
    pixels = noise(bands=4)
    pixels[:10, ..., 3] = 0
    path = write(tmp_path / 'a.tif', pixels)
    assert read_bands(path, [1, 2, 3, 4]).missing is None


def test_missing_values_become_the_mean(tmp_path):
    pixels = noise('float32', bands=2)
    pixels[0, 0], pixels[0, 1, 1], pixels[0, 2] = np.nan, -9999, (np.inf, 5)
    path = write(tmp_path / 'a.tif', pixels, nodata=-9999)
    results = load(path, bands=[1, 2], dtype='float32', mean=[7.5, 8.5])
    np.testing.assert_array_equal(results['img'][0, :3, 0], [7.5, pixels[0, 1, 0], 7.5])
    np.testing.assert_array_equal(results['img'][0, :3, 1], [8.5, 8.5, 5])
    assert np.argwhere(results['no_data']).tolist() == [[0, 0]]

    own = load(path, bands=[2], dtype='float32')['img'][0, 0, 0]
    known = np.delete(pixels[..., 1].ravel(), [0, 1])
    assert own == pytest.approx(known.mean(), rel=1e-5)
    with pytest.raises(ValueError, match='band 1: no pixel has data'):
        load(write(tmp_path / 'b.tif', np.zeros_like(pixels), nodata=0), bands=[1], dtype='float32')


def test_labels_without_an_image_are_ignored(tmp_path):
    pixels = noise('uint16', bands=3, high=1000) + 1
    pixels[:5] = 0
    image = write(tmp_path / 'a.tif', pixels, nodata=0)
    labels = noise(bands=1, high=3)
    label = write(tmp_path / 'label.tif', labels)
    results = dict(seg_map_path=label, reduce_zero_label=False, seg_fields=[], img_path=image)
    results |= load(image, bands=[1, 2, 3], dtype='uint16')
    loaded = LoadClassMap(num_classes=3).transform(results)['gt_seg_map']
    assert (loaded[:5] == 255).all() and (loaded[5:] == labels[5:, :, 0]).all()


@pytest.mark.parametrize(('dtype', 'nodata'), [('uint8', 9), ('int16', -1), ('uint16', 65535)])
def test_the_nodata_of_a_label_map_is_ignored(tmp_path, dtype, nodata):
    labels = noise(dtype, bands=1, high=3)
    labels[:5] = nodata
    label = write(tmp_path / 'label.tif', labels, nodata=nodata)
    results = dict(seg_map_path=label, reduce_zero_label=False, seg_fields=[], img_path='a')
    results['ori_shape'] = labels.shape[:2]
    loaded = LoadClassMap(num_classes=3).transform(results)['gt_seg_map']
    assert (loaded[:5] == 255).all() and (loaded[5:] == labels[5:, :, 0]).all()


def test_pairs_of_any_bands(tmp_path):
    first, second = noise('uint16', high=3000), noise('uint16', high=2000)
    first[0] = 0
    paths = [write(tmp_path / f'{i}.tif', x, nodata=0) for i, x in enumerate((first, second))]
    change = np.full(first.shape[:2], 255, np.uint8)
    cv2.imwrite(str(tmp_path / 'label.png'), change)
    loader = LoadPair(dict(type=LoadBands, bands=[1, 2, 3, 4, 5], dtype='uint16', mean=[1.0] * 5))
    results = dict(img_path=paths[0], img_path2=paths[1], seg_fields=[])
    results = loader.transform(results | dict(seg_map_path=str(tmp_path / 'label.png')))
    results = LoadChange().transform(results)
    assert results['img'].shape[2] == 10 and (results['img'][0, :, :5] == 1).all()
    assert (results['gt_seg_map'][0] == 255).all() and (results['gt_seg_map'][1:] == 1).all()
    swapped = SwapDates().transform(dict(img=results['img']))['img']
    np.testing.assert_array_equal(swapped[..., :5], results['img'][..., 5:])


def test_stretch_is_linear_per_band_and_scene(tmp_path):
    pixels = noise('uint16', bands=2, high=3000) + 1
    pixels[..., 1] *= 2
    pixels[0] = 0
    path = write(tmp_path / 'a.tif', pixels, nodata=0)
    stretch = Stretch.of_scene('p2,p98', path, [1, 2])
    for band, limits in enumerate(stretch.limits):
        assert limits == pytest.approx(np.percentile(pixels[1:, :, band], (2, 98)))
        assert all(type(value) is float for value in limits)
    (low, high), _ = stretch.limits
    expected = ((pixels[..., 0] - low) / (high - low) * 255).clip(0, 255).round()
    by_rule = load(path, bands=[1, 2], stretch='p2,p98', mean=[0, 0])['img']
    by_numbers = load(path, bands=[1, 2], stretch=stretch.limits, mean=[0, 0])['img']
    assert by_rule.dtype == np.uint8
    np.testing.assert_array_equal(by_rule, by_numbers)
    np.testing.assert_array_equal(by_rule[1:, :, 0], expected[1:])
    assert Stretch.of_scene('0, 3000', path, [1]).limits == ((0.0, 3000.0),)
    for rule in ('3000', '5,1', 'p2,98', 'p2,p101', '0,inf'):
        with pytest.raises(ValueError, match='give MIN,MAX'):
            LoadBands(bands=[1], stretch=rule)


def test_pictures_show_three_bands(tmp_path):
    pixels = noise('uint16', bands=4, high=3000) + 1
    pixels[0] = 0
    picture = read_picture(write(tmp_path / 'a.tif', pixels, nodata=0), [4, 2, 1])
    values = pixels[1:, :, 1]
    low, high = np.percentile(values, (2, 98))
    expected = ((values - low) / (high - low) * 255).clip(0, 255).round()
    np.testing.assert_array_equal(picture[1:, :, 1], expected)
    grey = read_picture(write(tmp_path / 'b.tif', noise(bands=2)), [2, 1])
    np.testing.assert_array_equal(grey, noise(bands=2)[..., [1, 1, 1]])
    assert not as_picture(np.zeros((2, 2, 1)), np.ones((2, 2, 1), bool)).any()


def test_measured_over_all_pixels_with_data(tmp_path, monkeypatch):
    monkeypatch.setattr('mtp.data.bands._CHUNK', 200)  # a few rows at once
    parts = [noise('float32', bands=2) + 1e6, noise('float32', bands=2, size=(5, 9))]
    parts[0][0, 0] = np.nan
    paths = [write(tmp_path / f'{i}.tif', part) for i, part in enumerate(parts)]
    found = measure(paths, [2, 1])
    values = np.concatenate([part.reshape(-1, 2) for part in parts])[1:].astype(np.float64)
    assert found.mean == pytest.approx(values.mean(0)[::-1], rel=1e-12)
    assert found.std == pytest.approx(values.std(0)[::-1], rel=1e-12)
    assert found.dtype == 'float32'
    stretched = measure(paths, [1], stretch='0,100')
    assert stretched.dtype == 'uint8' and 0 < stretched.mean[0] <= 255


def test_errors_name_the_remedy(tmp_path, monkeypatch):
    path = write(tmp_path / 'a.tif', noise('uint16', high=3000))
    with pytest.raises(ValueError, match=r"uint16.*dtype='uint16'.*stretch='p2,p98'"):
        load(path, bands=[1, 2])
    with pytest.raises(ValueError, match=r'bands 1 to 5, but not \[0, 6\]'):
        load(path, bands=[0, 6], dtype='uint16')
    with pytest.raises(ValueError, match='mean has 3 entries'):
        LoadBands(bands=[1], mean=[1, 2, 3])
    with pytest.raises(ValueError, match='have one type.*--stretch'):
        measure([path, write(tmp_path / 'b.tif', noise())], [1])
    with pytest.raises(ValueError, match=r'missing\.tif is missing'):
        load(str(tmp_path / 'missing.tif'), bands=[1])
    (tmp_path / 'cut.tif').write_bytes((tmp_path / 'a.tif').read_bytes()[:3000])
    with pytest.raises(ValueError, match=r'cut\.tif is missing or no readable image'):
        load(str(tmp_path / 'cut.tif'), bands=[1], dtype='uint16')
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    with pytest.raises(ValueError, match=r'pip install mtp\[geo\]'):
        load(path, bands=[1], dtype='uint16')


@pytest.mark.parametrize('bands', [1, 4, 5, 13])
@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_bands_are_resized_by_pillow(bands, dtype):
    import mmcv

    image = noise(dtype, bands)
    resized = resize_bands(image, (20, 30), 'bicubic')
    assert resized.shape == (30, 20, bands) and resized.dtype == dtype
    if dtype == 'uint8' and bands > 3:
        rgb = mmcv.imresize(image[..., :3], (20, 30), False, 'bicubic', backend='pillow')
        np.testing.assert_array_equal(resized[..., :3], rgb)
