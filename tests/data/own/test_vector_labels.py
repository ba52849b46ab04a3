"""Polygons on the map come to lie on the pixels that they were drawn on."""

import sys

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image

from mtp.data.own.importing import Options, import_data
from mtp.data.own.recognition import recognise
from mtp.data.own.samples import read_data
from mtp.data.prepare.footprints import TIEPOINT
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
        values = np.random.default_rng(len(path.stem)).integers(1, 200, (bands, SIDE, SIDE))
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
    kind = 'Unknown' if path.suffix == '.geojson' else 'Polygon'
    pyogrio.raw.write(
        path,
        np.array([None if shape is None else shapely.to_wkb(shape) for shape in shapes], object),
        [np.array(values, object) for values in columns.values()],
        list(columns),
        geometry_type=kind,
        crs=crs,
    )


def features(root, column=None):
    data = read_data(recognise(root), column)
    return data, [each for sample in data.samples for each in sample.objects]


@pytest.mark.parametrize('place', sorted({*PLACES} - {'nowhere'}))
@pytest.mark.parametrize(('suffix', 'crs'), [('.geojson', WGS84), ('.gpkg', UTM), ('.shp', WGS84)])
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
