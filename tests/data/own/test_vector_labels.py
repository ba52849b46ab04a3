"""Polygons on the map come to lie on the pixels that they were drawn on."""

import re
import sys
from dataclasses import replace

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.windows import Window

from mtp.data.bands import read_bands
from mtp.data.description import read_description
from mtp.data.own.contents import read_data
from mtp.data.own.importing import Options, import_data
from mtp.data.own.recognition import recognise
from mtp.data.prepare.footprints import TIEPOINT, geotransform
from mtp.data.prepare.tiling import PADDING
from mtp.data.run_lengths import decode_mask
from mtp.files import UnusableFileError

pytestmark = [
    pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning'),
    pytest.mark.filterwarnings('ignore:A geometry of type MULTIPOLYGON'),
]
SIDE = 64
SQUARE = [(8, 16), (40, 16), (40, 48), (8, 48)]  # pixels
UTM, WGS84 = 'EPSG:32632', 'EPSG:4326'
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)
PLACES = {
    'utm': (UTM, NORTH_UP, {}),
    'wgs84': (WGS84, Affine(1e-5, 0, 11.5, 0, -1e-5, 48.1), {}),
    'rotated': (UTM, NORTH_UP @ Affine.rotation(30), {}),
    'nowhere': (None, None, {}),
    'point': (UTM, NORTH_UP, dict(AREA_OR_POINT='Point')),
}


def scene(path, place='utm', bands=3, dtype='uint8', **options):
    crs, transform, tags = PLACES[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (SIDE, SIDE, bands, crs, transform, dtype)
    with rasterio.open(path, 'w', 'GTiff', *shape, **options) as file:
        file.update_tags(**tags)
        values = np.random.default_rng(list(path.stem.encode())).integers(
            1, 200, (bands, SIDE, SIDE)
        )
        file.write(values.astype(dtype))
    return crs, transform


def on_map(shape, transform, source, crs):
    """Move a shape from pixels to map coordinates."""
    from rasterio.warp import transform as move

    def moved(points):
        coefficients = np.array(transform[:6]).reshape(2, 3)
        x, y = coefficients[:, :2] @ points.T + coefficients[:, 2:]
        return np.stack(move(source, crs, x, y), 1)

    return shapely.transform(shape, moved)


def write(path, shapes, crs, **columns):
    as_json = path.suffix in ('.geojson', '.json')
    kind = 'Unknown' if as_json else 'Polygon'
    pyogrio.raw.write(
        path,
        np.array([None if shape is None else shapely.to_wkb(shape) for shape in shapes], object),
        [np.array(values, object) for values in columns.values()],
        list(columns),
        geometry_type=kind,
        crs=crs,
        driver='GeoJSON' if as_json else None,
    )


def features(root, column=None):
    data = read_data(recognise(root), column)
    return data, [each for sample in data.samples for each in sample.objects]


@pytest.mark.parametrize('place', sorted({*PLACES} - {'nowhere'}))
@pytest.mark.parametrize(
    ('suffix', 'crs'), [('.geojson', WGS84), ('.json', WGS84), ('.gpkg', UTM), ('.shp', WGS84)]
)
def test_a_square_drawn_on_the_map_has_the_corners_of_its_pixels(place, suffix, crs, tmp_path):
    source, transform = scene(tmp_path / 'a.tif', place)
    square = on_map(shapely.polygons(SQUARE), transform, source, crs)
    write(tmp_path / f'a{suffix}', [square], crs, kind=['house'])
    data, (found,) = features(tmp_path)
    assert data.classes == ('house',) and not data.faults and not data.tally.left_out
    corners = np.array(found.mask[0]).reshape(-1, 2)
    assert {tuple(corner) for corner in corners.round(3).tolist()} == {*map(tuple, SQUARE)}
    np.testing.assert_allclose(found.box.corners, SQUARE, atol=1e-3)
    np.testing.assert_allclose(sorted(found.rotated.tolist()), sorted(SQUARE), atol=1e-3)
    if place == 'point':  # what the file says is the centre of the first pixel
        with Image.open(tmp_path / 'a.tif') as image:
            assert image.tag_v2[TIEPOINT][3:5] == (500_000.25, 5_299_999.75)
        assert geotransform(tmp_path / 'a.tif')[0].tolist() == [500_000, 5_300_000]


def test_holes_parts_heights_and_borders(tmp_path):
    source, transform = scene(tmp_path / 'images' / 'a.tif')
    scene(tmp_path / 'images' / 'b.tif')  # the same ground again
    ring = shapely.Polygon(SQUARE, [[(16, 24), (32, 24), (32, 40), (16, 40)]])
    parts = shapely.union_all([shapely.box(0, 0, 4, 4), shapely.box(60, 60, 64, 64)])
    over = shapely.box(50, -10, 80, 10)
    bowtie = shapely.Polygon([(0, 50), (8, 58), (8, 50), (0, 58)])
    drawn = [ring, parts, over, bowtie, shapely.box(200, 200, 220, 220)]
    shapes = [on_map(shapely.force_3d(each, 7.0), transform, source, UTM) for each in drawn]
    names = ['b', 'a', 'b', 'b', 'b', 'b', '']
    write(tmp_path / 'all.gpkg', [*shapes, None, shapes[0]], UTM, kind=names)
    data, found = features(tmp_path)
    assert data.classes == ('a', 'b') and len(data.samples) == 2 and len(found) == 8
    assert {reason: len(places) for reason, places in data.tally.left_out.items()} == {
        'features outside of the images': 1,
        'features without a geometry': 1,
        'features without a value of kind': 1,
    }
    notes = '\n'.join(data.tally.notes)
    assert '2 features are clipped' in notes and 'feature 4 crosses itself' in notes
    masks = [decode_mask(each.mask, SIDE, SIDE).astype(bool) for each in found[:4]]
    expected = np.zeros((4, SIDE, SIDE), bool)
    expected[0, 16:48, 8:40], expected[0, 24:40, 16:32] = True, False
    expected[1, :4, :4] = expected[1, 60:, 60:] = True
    expected[2, :10, 50:] = True
    np.testing.assert_array_equal(masks[:3], expected[:3])
    assert masks[3].sum() == pytest.approx(32, abs=8)


def test_faults_name_the_file_and_the_remedy(tmp_path, monkeypatch):
    source, transform = scene(tmp_path / 'a.tif')
    path = tmp_path / 'a.geojson'
    square = on_map(shapely.polygons(SQUARE), transform, source, WGS84)
    many = [square] * 6

    def said(column=None):
        with pytest.raises(UnusableFileError) as error:
            features(tmp_path, column)
        return str(error.value)

    write(path, many, WGS84, kind=list('aabbcc'), roof=list('xxyyzz'), n=list(range(6)))
    assert '2 columns' in said() and 'kind (3 values: a, b, c); roof (3' in said()
    assert "no column 'kin'" in said('kin') and '--class-column -' in said('kin')
    assert features(tmp_path, 'n')[0].classes == tuple('012345')
    assert features(tmp_path, '-')[0].classes == ('a',)
    write(path, many, WGS84)
    assert features(tmp_path)[0].classes == ('a',)
    write(path, [shapely.points(11, 48)], WGS84)
    assert 'feature 1 is a Point: labels are polygons' in said()
    path.write_text('{')
    assert 'no vector file' in said()
    write(path, [shapely.box(0, 0, 1, 1)], WGS84)
    (fault,) = features(tmp_path)[0].faults
    assert 'all 1 features are outside of the image' in fault and WGS84 in fault
    scene(tmp_path / 'a.tif', 'nowhere')
    assert 'a.tif has no place on the map' in features(tmp_path)[0].faults[0]
    monkeypatch.setitem(sys.modules, 'pyogrio', None)
    assert 'pip install mtp[geo]' in said()


def test_one_file_for_each_scene_imports_as_masks_and_as_exact_rotated_boxes(tmp_path):
    slanted = [(10, 20.125), (30, 10), (40, 30.5), (20, 40.625)]
    for name in 'abcd':
        source, transform = scene(tmp_path / 'mine' / f'{name}.tif')
        shape = on_map(shapely.polygons(slanted), transform, source, UTM)
        write(tmp_path / 'mine' / f'{name}.gpkg', [shape], UTM, kind=[name])
    data, _ = features(tmp_path / 'mine')
    assert data.classes == tuple('abcd')
    report = import_data(data, tmp_path / 'made', Options(train=0.5))
    assert not report.bad and report.made['train objects'] == 2
    import_data(data, tmp_path / 'boxes', Options(train=0.5, kind='rotated'))
    lines = [path.read_text() for path in (tmp_path / 'boxes').glob('*/labels/*.txt')]
    corners = ' '.join(f'{value:g}' for point in slanted for value in point)
    assert sorted(lines) == [f'{corners} {name} 0\n' for name in 'abcd']


def test_an_area_leaves_out_tiles_pixels_and_objects(tmp_path):
    source, transform = scene(tmp_path / 'mine' / 'images' / 'a.tif')
    (tmp_path / 'mine' / 'masks').mkdir()
    for name in 'ab':
        scene(tmp_path / 'mine' / 'images' / f'{name}.tif')
        Image.fromarray(np.eye(SIDE, dtype=np.uint8)).save(
            tmp_path / 'mine' / 'masks' / f'{name}.png'
        )
    (tmp_path / 'mine' / 'data.yaml').write_text('train: images\nnames: [ground, road]\n')
    area = tmp_path / 'area.geojson'
    write(area, [on_map(shapely.box(0, 0, 40, 32), transform, source, WGS84)], WGS84)
    data = read_data(recognise(tmp_path / 'mine'))
    report = import_data(data, tmp_path / 'made', Options(0.5, tile=32, area=area))
    assert report.left_out['tiles outside of the area'] == 4 and not report.bad
    pixels = np.array(Image.open(next((tmp_path / 'made').glob('*/images/*__32__32___0.png'))))
    labels = np.array(Image.open(next((tmp_path / 'made').glob('*/labels/*__32__32___0.png'))))
    assert (pixels[:, 8:] == PADDING).all() and (pixels[:, :8] != PADDING).any(2).all()
    assert (labels[:, 8:] == 255).all() and (labels[:, :8] == 0).all()

    boxes = tmp_path / 'boxes'
    for name, x in (('a', 30), ('b', 38), ('c', 30)):
        scene(boxes / 'images' / f'{name}.tif')
        (boxes / 'labelTxt').mkdir(exist_ok=True)
        line = f'{x} 2 {x + 8} 2 {x + 8} 9 {x} 9 car 0\n'
        (boxes / 'labelTxt' / f'{name}.txt').write_text(line)
    report = import_data(read_data(recognise(boxes)), tmp_path / 'cut', Options(0.5, area=area))
    assert report.left_out['objects whose centre is outside of the area'] == 1
    assert report.made['train objects'] + report.made['val objects'] == 2

    masks = read_data(recognise(boxes))
    polygon = [v for corner in SQUARE for v in corner]
    masks.samples[:] = [
        replace(each, objects=tuple(replace(one, mask=[polygon]) for one in each.objects))
        for each in masks.samples
    ]
    masks.found = replace(masks.found, form='coco')
    import_data(masks, tmp_path / 'all', Options(0.5, area=area))
    for path in (tmp_path / 'all').rglob('gray/*.png'):
        labels = np.array(Image.open(path))
        assert (labels[32:] == 254).all() and (labels[:, 40:] == 254).all()
        assert {*labels[:32, :40].flat} <= {0, 255}


def bands(root, dtype='uint16', **options):
    for name in 'abcd':
        scene(root / 'images' / f'{name}.tif', bands=5, dtype=dtype, **options)
        (root / 'labelTxt').mkdir(exist_ok=True)
        (root / 'labelTxt' / f'{name}.txt').write_text('2 2 9 2 9 9 2 9 car 0\n')
    with rasterio.open(root / 'images' / 'a.tif', 'r+') as file:
        values = file.read()
        values[:, :32] = options.get('nodata', values[:, :32])
        file.write(values)
    return read_data(recognise(root))


def test_16_bits_stay_in_tiles_and_mean_and_deviation_are_of_the_training_images(tmp_path):
    data = bands(tmp_path / 'mine', nodata=7)
    report = import_data(data, tmp_path / 'made', Options(0.5, tile=48, bands=(4, 3)))
    assert not report.bad
    made = read_description(tmp_path / 'made' / 'data.yaml')
    assert (made.bands, made.gsd, made.stretch, made.nodata) == ((4, 3), 0.5, (), 7)
    values = []
    for path in sorted((tmp_path / 'made' / 'train' / 'images').iterdir()):
        name, x, y = re.fullmatch(r'(.)__48__(\d+)___(\d+)', path.stem).groups()
        window = Window(int(x), int(y), 48, 48)
        source = tmp_path / 'mine' / 'images' / f'{name}.tif'
        with rasterio.open(path) as tile, rasterio.open(source) as whole:
            assert tile.dtypes == ('uint16',) * 5 and tile.nodata == 7
            assert tile.transform == whole.window_transform(window)
            np.testing.assert_array_equal(tile.read(), whole.read(window=window))
            values.append(tile.read([4, 3]).reshape(2, -1))
    values = np.concatenate(values, 1).astype(float)
    for band, mean, std in zip(values, made.mean, made.std):
        assert band[band != 7].mean() == pytest.approx(mean)
        assert band[band != 7].std() == pytest.approx(std)


def test_a_stretch_makes_rgb_of_which_the_numbers_are_kept(tmp_path):
    data = bands(tmp_path / 'mine', nodata=7)
    options = Options(0.5, bands=(4, 3, 2), stretch='p2,p98')
    import_data(data, tmp_path / 'made', options)
    made = read_description(tmp_path / 'made' / 'data.yaml')
    assert (made.bands, made.stretch, made.mean) == ((4, 3, 2), 'p2,p98', ())
    low, high = made.stretched['a.tif'][0]
    with rasterio.open(tmp_path / 'mine' / 'images' / 'a.tif') as file:
        band = file.read(4).astype(float)
    assert np.percentile(band[band != 7], (2, 98)).tolist() == [low, high]
    pixels = np.array(Image.open(next((tmp_path / 'made').glob('*/images/a.png'))))
    expected = ((band - low) / (high - low) * 255).clip(0, 255).round()
    lost = band == 7
    np.testing.assert_array_equal(pixels[..., 0][~lost], expected[~lost])
    assert lost[:32].all() and (pixels[lost] == PADDING)[:, 0].all()
    # what is stretched is not stretched again
    import_data(read_data(recognise(tmp_path / 'made')), tmp_path / 'again', Options())
    assert read_description(tmp_path / 'again' / 'data.yaml').stretched == made.stretched
    again = np.array(Image.open(next((tmp_path / 'again').glob('*/images/a.png'))))
    np.testing.assert_array_equal(again, pixels)


def test_floats_without_nodata_keep_nan_and_mask_the_border_of_an_area(tmp_path):
    data = bands(tmp_path / 'mine', 'float32')
    area = tmp_path / 'area.gpkg'
    write(area, [on_map(shapely.box(0, 0, 40, SIDE), NORTH_UP, UTM, UTM)], UTM)
    import_data(data, tmp_path / 'made', Options(0.5, area=area))
    path = next((tmp_path / 'made').glob('*/images/b.tif'))
    raster = read_bands(path, [1, 5])
    assert raster.pixels.dtype == np.float32
    assert raster.missing[:, 40:].all() and not raster.missing[:, :40].any()


def test_images_that_differ_and_pretraining_on_16_bits_are_refused(tmp_path):
    bands(tmp_path / 'mine')
    scene(tmp_path / 'mine' / 'images' / 'b.tif', bands=5)
    with pytest.raises(UnusableFileError, match='b.tif has 5 bands of type uint8.*--stretch'):
        import_data(read_data(recognise(tmp_path / 'mine')), tmp_path / 'made', Options())
    source, transform = scene(tmp_path / 'one' / 'a.tif', dtype='uint16')
    drawn = shapely.polygons(SQUARE), shapely.box(17, 2, 30, 14)
    shapes = [on_map(shape, transform, source, UTM) for shape in drawn]
    write(tmp_path / 'one' / 'a.gpkg', shapes, UTM)
    with pytest.raises(ValueError, match='8-bit RGB.*--stretch p2,p98.*--task'):
        import_data(features(tmp_path / 'one')[0], tmp_path / 'made', Options(tile=32))
    data = features(tmp_path / 'one')[0]
    with pytest.raises(ValueError, match='too large to divide'):
        import_data(data, tmp_path / 'made', Options(tile=32, stretch='0,200'))
    report = import_data(data, tmp_path / 'made', Options(0.6, tile=16, stretch='0,200'))
    assert not report.bad and report.made['train objects'] == 1
    assert report.left_out['parts of objects that a tile cuts'] == 4  # in training, 2 x 2 tiles
