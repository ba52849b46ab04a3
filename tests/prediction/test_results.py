"""Results, and what they are converted to."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pyogrio
import pytest
import shapely

import mtp
from mtp.data.run_lengths import decode_mask
from mtp.files import UnusableFileError
from mtp.prediction.outputs import write_vectors
from mtp.prediction.places import Place
from mtp.prediction.polygons import mean_inside
from mtp.prediction.results import Detections, RotatedDetections, Segmentation
from tests.prediction.small import config_of, save

CLASSES = ('car', 'plane')
PLACE = Place((0.5, 0, 500_000, 0, -0.5, 5_300_000), 'EPSG:32632', (40, 60))


def upright(**more):
    return Detections(
        classes=CLASSES,
        size=(40, 60),
        boxes=np.array([[4, 8, 24, 16], [30, 2, 40, 22]], np.float32),
        scores=np.array([0.9, 0.5], np.float32),
        labels=np.array([1, 0]),
        **more,
    )


def rotated(**more):
    return RotatedDetections(
        classes=CLASSES,
        size=(40, 60),
        boxes=np.array([[20, 10, 8, 4, np.pi / 6]], np.float32),
        scores=np.array([0.9], np.float32),
        labels=np.array([1]),
        **more,
    )


def test_corners_are_those_of_the_drawn_box():
    expected = shapely.affinity.rotate(shapely.box(16, 8, 24, 12), 30, use_radians=False)
    (corners,) = rotated().corners
    assert shapely.polygons(corners.astype(float)).symmetric_difference(expected).area < 1e-4


def test_conversions_of_objects(monkeypatch):
    result = upright(masks=np.stack([np.eye(40, 60, dtype=bool)] * 2))
    first, second = result.to_coco(7)
    assert first['bbox'] == [4, 8, 20, 8] and first['category_id'] == 1 and first['image_id'] == 7
    assert (decode_mask(second['segmentation'], 40, 60) == np.eye(40, 60)).all()
    assert rotated().to_coco()[0]['segmentation'][0] == pytest.approx(
        rotated().corners[0].reshape(-1).tolist()
    )
    assert result.to_dota().splitlines()[0] == '4.00 8.00 24.00 8.00 24.00 16.00 4.00 16.00 plane 0'
    assert len(result.at_least(0.6)) == 1 and result.names == ['plane', 'car']

    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(UnusableFileError, match='pip install supervision'):
        result.to_supervision()
    fake = ModuleType('supervision')
    fake.Detections = SimpleNamespace
    monkeypatch.setitem(sys.modules, 'supervision', fake)
    found = rotated().to_supervision()
    assert found.data['xyxyxyxy'].shape == (1, 4, 2) and found.class_id.tolist() == [1]
    np.testing.assert_allclose(found.xyxy[0], shapely.polygons(rotated().corners[0]).bounds)


def test_geojson_is_on_the_map_or_in_pixels():
    on_map = upright(place=PLACE).to_geojson(crs=None)
    first = on_map['features'][0]
    assert first['properties'] == {
        'class': 'plane',
        'score': 0.9,
        'tile': None,
        'angle': 90.0,
        'area_m2': 40.0,
    }
    assert [500_002.0, 5_299_996.0] in [list(p) for p in first['geometry']['coordinates'][0]]
    assert on_map['crs']['properties']['name'] == 'urn:ogc:def:crs:EPSG::32632'
    in_pixels = upright().to_geojson()['features'][0]
    assert [4.0, 8.0] in [list(p) for p in in_pixels['geometry']['coordinates'][0]]
    labels = np.zeros((40, 60), np.uint8)
    labels[5:10, 5:15] = 1
    mapped = Segmentation(classes=('background', 'road'), size=(40, 60), labels=labels)
    (feature,) = mapped.to_geojson()['features']
    assert shapely.geometry.shape(feature['geometry']).bounds == (5, 5, 15, 10)
    assert feature['properties']['score'] is None


def test_polygons_have_the_mean_probability_of_their_class():
    labels = np.zeros((40, 60), np.uint8)
    labels[5:10, 5:15], labels[30:32, 50:60], labels[:, 59] = 1, 1, 255
    road = np.where(labels == 1, 0.75, 0.0).astype(np.float32)
    road[5, 5:15] = 0.25
    result = Segmentation(
        classes=('background', 'road'),
        size=(40, 60),
        labels=labels,
        probabilities=np.stack([1 - road, road]),
    )
    features = result.to_geojson()['features']
    assert [each['properties']['score'] for each in features] == [0.65, 0.75]
    rows = [road[:7], road[7:31], road[31:]]  # as a scene gives them
    shapes = [shapely.geometry.shape(each['geometry']) for each in features]
    np.testing.assert_allclose(mean_inside(shapes, rows), [0.65, 0.75])


def test_objects_with_masks_are_their_outlines(tmp_path):
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 8:16, 4:24], masks[0, 10:12, 6:8] = True, False  # a hole
    masks[1, 2:22, 30:33], masks[1, 2:22, 37:40] = True, True  # two parts
    result = upright(masks=masks, place=PLACE)
    first, second = result.shapes
    assert first.equals(shapely.box(4, 8, 24, 16) - shapely.box(6, 10, 8, 12))
    assert [part.bounds for part in second.geoms] == [(30, 2, 33, 22), (37, 2, 40, 22)]
    features = result.to_geojson()['features']
    assert [each['geometry']['type'] for each in features] == ['Polygon', 'MultiPolygon']
    assert [each['properties']['area_m2'] for each in features] == [39.0, 30.0]
    write_vectors(result.features(), PLACE, tmp_path / 'a.gpkg')
    meta, _, shapes, _ = pyogrio.raw.read(tmp_path / 'a.gpkg')
    assert meta['geometry_type'] == 'MultiPolygon'
    assert shapely.area(shapely.from_wkb(shapes)).tolist() == [39.0, 30.0]
    # an object whose mask has no pixel is its box
    masks[1] = False
    assert upright(masks=masks).shapes[1].equals(shapely.box(30, 2, 40, 22))


@pytest.mark.usefixtures('few_objects')
def test_lists_iterators_and_options_of_a_call(tmp_path):
    save(config_of('rotated_detection', tmp_path), tmp_path / 'a.pth')
    model = mtp.load(tmp_path / 'a.pth', device='cpu')
    images = [tmp_path / 'mine' / 'images' / f'{number}.png' for number in range(3)]
    whole = model(images, score=0.0, batch_size=2)
    assert isinstance(whole, list) and len(whole) == 3
    read = []

    def stream():
        for path in images:
            read.append(path)
            yield path

    results = model(stream(), score=0.0, batch_size=1)
    np.testing.assert_allclose(next(results).scores, whole[0].scores, rtol=1e-4)
    assert len(read) == 1
    cars = model(images[0], score=0.0, classes=['car'], max_objects=2)
    assert {*cars.names} <= {'car'} and len(cars) <= 2
    with pytest.raises(ValueError, match='did you mean car'):
        model(images[0], classes=['cat'])
    with pytest.raises(UnusableFileError, match='uint8'):
        model(np.zeros((64, 64, 3), np.float32))
    with pytest.raises(UnusableFileError, match=r'\(64, 64, 4\)'):
        model(np.zeros((64, 64, 4), np.uint8))
    with pytest.raises(UnusableFileError, match='no file'):
        model('nowhere.png')
    with pytest.raises(UnusableFileError, match='a path, a PIL image or an array'):
        model([3])
