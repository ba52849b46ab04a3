"""Scenes are predicted tile by tile, and what is found lies where it is on the map."""

import json
import os
import signal

import cv2
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
import torch
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from rasterio import Affine
from rasterio.env import get_gdal_config
from torch import nn

import mtp
from mtp.files import UnusableFileError
from mtp.prediction import scenes
from mtp.prediction.blending import Blend
from mtp.prediction.inputs import Loader
from mtp.prediction.scene_files import Model, predict_scenes
from mtp.prediction.scene_rows import SceneRows
from mtp.prediction.scenes import Scene
from mtp.prediction.tile_grid import Tiles
from mtp.registry import MODELS
from tests.prediction.small import config_of, save

pytestmark = [
    pytest.mark.usefixtures('few_objects'),
    pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning'),
]
UTM, WGS84 = 'EPSG:32632', 'EPSG:4326'
ALL_OBJECTS = ('geojson', 'gpkg', 'coco', 'dota', 'png')
MARKER = (10, 4)  # of drawn markers, pixels along x and y
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_300_000)


class FindMarkers(BaseModel):
    """Model that finds rectangles of one colour, each in a rotated box, or with a mask."""

    def __init__(self, bands=3, masks=False):
        super().__init__()
        self.masks = masks
        self.data_preprocessor = MODELS.build(
            dict(
                type='BandDetDataPreprocessor',
                mean=[0.0] * bands,
                std=[1.0] * bands,
                bgr_to_rgb=True,
                boxtype2tensor=False,
            )
        )
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs, data_samples, mode):
        for image, sample in zip(inputs, data_samples):
            marked = (image[0] > 200).numpy()
            boxes, masks = [], [np.zeros((0, *marked.shape), bool)]
            for shape, value in rasterio.features.shapes(marked.astype(np.uint8)):
                if value:
                    x1, y1, x2, y2 = shapely.geometry.shape(shape).bounds
                    boxes.append(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.0))
                    if self.masks:
                        boxes[-1] = (x1, y1, x2, y2)
                        inside = np.zeros((1, *marked.shape), bool)
                        inside[0, int(y1) : int(y2), int(x1) : int(x2)] = True
                        masks.append(inside & marked)
            found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4 if self.masks else 5)
            sample.pred_instances = InstanceData(
                bboxes=found,
                scores=torch.full((len(found),), 0.9),
                labels=torch.zeros(len(found), dtype=torch.int64),
            )
            if self.masks:
                sample.pred_instances.masks = torch.from_numpy(np.concatenate(masks))
        return data_samples


def finder(masks=False, **scenes):
    """Return a model that finds markers, as a detector of tiles of 64 pixels."""
    description = dict(
        task='horizontal_detection' if masks else 'rotated_detection',
        scope='mmdet',
        model=dict(backbone=dict(img_size=64)),
        datasets={'': dict(classes=['marker'], palette=[], tasks=[])},
        scenes=scenes,
    )
    loader = Loader([dict(type='mtp.LoadImage'), dict(type='mmdet.PackDetInputs')])
    return Model(FindMarkers(masks=masks), description, loader, __file__)


def write_scene(path, places, size=(200, 300), crs=UTM, transform=NORTH_UP, **options):
    """Draw markers at their upper left corners, x and y in pixels."""
    pixels = np.full((3, *size), 40, np.uint8)
    for x, y in places:
        pixels[:, y : y + MARKER[1], x : x + MARKER[0]] = 250
    profile = dict(crs=crs, transform=transform) if crs else {}
    with rasterio.open(
        path,
        'w',
        'GTiff',
        size[1],
        size[0],
        3,
        dtype='uint8',
        photometric='RGB',
        **profile,
        **options,
    ) as file:
        file.write(pixels)
    return path


PLACES = [(x, y) for x in range(5, 280, 25) for y in range(3, 190, 17)]  # many cross borders


def test_objects_are_found_once_across_tiles(tmp_path):
    found = finder().predict(write_scene(tmp_path / 'a.tif', PLACES))
    (result,) = found.results.values()
    corners = sorted(tuple(box.min(0).tolist()) for box in result.corners)
    assert corners == sorted((float(x), float(y)) for x, y in PLACES)
    assert found.tiles == 4 * 6 and result.names[0] == 'marker'


@pytest.mark.parametrize(
    ('crs', 'transform', 'expected', 'angle'),
    [
        (UTM, NORTH_UP, (500_010.0, 5_299_985.0), 90.0),
        (UTM, NORTH_UP @ Affine.rotation(30), (500_001.16025, 5_299_982.00962), 120.0),
        (UTM, NORTH_UP @ Affine.shear(20, 0), (500_015.45955, 5_299_985.0), 90.0),
        (WGS84, Affine(1e-5, 0, 11.5, 0, -1e-5, 48.1), (11.5002, 48.0997), 90.0),
    ],
)
def test_places_on_the_map(crs, transform, expected, angle, tmp_path):
    """The upper left corner of a marker at (20, 30), to a tenth of a pixel."""
    scene = write_scene(tmp_path / 'a.tif', [(20, 30)], crs=crs, transform=transform)
    found = finder().predict(scene, tmp_path / 'out', formats=('gpkg', 'geojson'))
    meta, _, geometry, columns = pyogrio.raw.read(tmp_path / 'out' / 'a.gpkg')
    values = dict(zip(meta['fields'], (column[0] for column in columns)))
    polygon = shapely.from_wkb(geometry[0])
    points = np.array(polygon.exterior.coords)
    tenth = abs(transform.a) / 10
    assert np.abs(points - expected).max(1).min() < tenth
    assert meta['crs'] == crs and values['class'] == 'marker'
    assert values['angle'] == pytest.approx(angle, abs=0.01)
    metres = 0.25 * 40 if crs == UTM else 40 * 111_195.0 * 1e-5 * 111_450 * 1e-5 * np.cos(0.8395)
    assert values['area_m2'] == pytest.approx(metres, rel=0.003)
    # GeoJSON: WGS84, counter-clockwise
    content = json.loads((tmp_path / 'out' / 'a.geojson').read_text())
    ring = content['features'][0]['geometry']['coordinates'][0]
    assert shapely.LinearRing(ring).is_ccw and 'crs' not in content
    longitude, latitude = np.array(ring)[:, 0], np.array(ring)[:, 1]
    assert (abs(latitude - 48) < 1).all() and ((longitude > 8) & (longitude < 12)).all()
    assert len(found.files) == 2 and not list((tmp_path / 'out').glob('.*'))


def test_objects_are_found_once_in_all_views(tmp_path):
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    for tta in (('flip',), ('flip', 'rot90')):
        (result,) = finder().predict(scene, tta=tta).results.values()
        corners = sorted(tuple(box.min(0).round(3).tolist()) for box in result.corners)
        assert corners == sorted((float(x), float(y)) for x, y in PLACES)


def test_masks_of_a_scene_are_polygons(tmp_path):
    """Of markers with a notch, also in turned and enlarged views; what a tile cuts is not whole."""
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    with rasterio.open(scene, 'r+') as file:
        pixels = file.read()
        for x, y in PLACES:
            pixels[:, y : y + 2, x + 6 : x + 10] = 40
        file.write(pixels)
    notched = [
        shapely.box(x, y, x + 10, y + 4) - shapely.box(x + 6, y, x + 10, y + 2) for x, y in PLACES
    ]
    for tta in ((), ('flip', 'rot90')):
        found = finder(masks=True).predict(scene, tmp_path / 'out', tta=tta, formats=ALL_OBJECTS)
        (result,) = found.results.values()
        assert len(result) == len(PLACES)
        outlines = sorted(result.outlines, key=lambda each: each.bounds[:2])
        for outline, expected in zip(outlines, sorted(notched, key=lambda each: each.bounds[:2])):
            assert outline.equals(expected)
    _, _, shapes, values = pyogrio.raw.read(tmp_path / 'out' / 'a.gpkg')
    assert shapely.area(shapely.from_wkb(shapes)).tolist() == [32 * 0.25] * len(PLACES)
    assert {*values[3]} == {90.0} and {*values[4]} == {32 * 0.25}
    content = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert {entry['area'] for entry in content['annotations']} == {32}
    assert {len(entry['segmentation'][0]) for entry in content['annotations']} == {12}
    coloured = np.ptp(cv2.imread(str(tmp_path / 'out' / 'a.png')).astype(int), axis=2) > 20
    assert coloured.mean() > 0.1


def test_a_scene_without_a_place_is_in_pixels(tmp_path):
    scene = write_scene(tmp_path / 'a.tif', [(20, 30)], crs=None)
    found = finder().predict(scene, tmp_path / 'out')
    assert any('no place on the map' in note for note in found.notes)
    content = json.loads((tmp_path / 'out' / 'a.geojson').read_text())
    (feature,) = content['features']
    assert [20.0, 30.0] in feature['geometry']['coordinates'][0]
    assert feature['properties']['angle'] is feature['properties']['area_m2'] is None


def test_a_scene_is_resampled_to_the_distance_of_the_training(tmp_path):
    scene = write_scene(tmp_path / 'a.tif', [(20, 30)])
    found = finder(gsd=1.0).predict(scene)
    (result,) = found.results.values()
    assert found.tiles == 6 and any('resampled' in note for note in found.notes)
    np.testing.assert_allclose(result.boxes[0, :4], (25, 32, 10, 4), atol=2)
    assert finder(gsd=1.0).predict(scene, gsd=0).tiles == 24


def test_an_area_limits_tiles_and_objects(tmp_path):
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    # pixels 0 to 62 along x, all along y
    area = shapely.box(500_000, 5_299_900, 500_031, 5_300_000)
    pyogrio.raw.write(
        tmp_path / 'area.gpkg',
        np.array([shapely.to_wkb(area)], object),
        [np.array(['a'], object)],
        ['kind'],
        geometry_type='Polygon',
        crs=UTM,
    )
    found = finder().predict(scene, area=tmp_path / 'area.gpkg')
    (result,) = found.results.values()
    assert len(result) == sum(x + 5 <= 62 for x, _ in PLACES)


def test_a_scene_is_judged_by_its_labels(segmentor, tmp_path):
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    markers = [
        shapely.box(x / 2 + 500_000, 5_300_000 - y / 2 - 2, x / 2 + 500_005, 5_300_000 - y / 2)
        for x, y in [*PLACES, (290, 195)]  # one that is not drawn
    ]

    def truth(path, shapes, name):
        pyogrio.raw.write(
            path,
            np.array([shapely.to_wkb(shape) for shape in shapes], object),
            [np.array([name] * len(shapes), object)],
            ['kind'],
            geometry_type='Polygon',
            crs=UTM,
        )
        return path

    found = finder().predict(scene, truth=truth(tmp_path / 'truth.gpkg', markers, 'Marker'))
    (figures,) = found.figures.values()
    expected = 100 * len(PLACES) / len(markers)
    assert figures['objects'] == len(markers)
    assert figures['mAP50'] == figures['marker/AP50'] == pytest.approx(expected, abs=0.1)

    model = mtp.load(segmentor, device='cpu')
    left = [shapely.box(500_000, 5_299_900, 500_075, 5_300_000)]
    found = model.predict(scene, tile=64, truth=truth(tmp_path / 'left.gpkg', left, 'road'))
    (figures,), (result,) = found.figures.values(), found.results.values()
    right = (result.labels[:, :150] == 1).sum()
    assert figures['road/IoU'] == pytest.approx(100 * right / (200 * 150))


def test_bad_scenes_are_named(tmp_path):
    model = finder()
    scene = write_scene(tmp_path / 'a.tif', [])
    with rasterio.open(tmp_path / 'wide.tif', 'w', 'GTiff', 80, 70, 5, dtype='uint16') as file:
        file.write(np.full((5, 70, 80), 500, np.uint16))
    (tmp_path / 'text.tif').write_text('no image')
    for path, said, options in (
        ('none.tif', 'no file', {}),
        ('text.tif', 'no readable image', {}),
        ('wide.tif', '5 bands.*--bands', {}),
        ('wide.tif', 'uint16.*--stretch', dict(bands=(1, 2, 3))),
    ):
        with pytest.raises(UnusableFileError, match=said):
            model.predict(tmp_path / path, **options)
    assert model.predict(tmp_path / 'wide.tif', bands=(1, 2, 3), stretch='0,1000').tiles == 1
    with pytest.raises(UnusableFileError, match='single images'):
        model.predict((scene, scene))


def test_bands_of_16_bits_are_those_of_the_training(tmp_path):
    pixels = np.full((5, 100, 120), 40, np.uint16)
    pixels[3, 20:24, 30:40] = 4_000  # in the fourth band alone
    with rasterio.open(tmp_path / 'a.tif', 'w', 'GTiff', 120, 100, 5, dtype='uint16') as file:
        file.write(pixels)
    load = dict(type='mtp.LoadBands', bands=[4, 2], dtype='uint16')
    model = finder()
    model = Model(
        FindMarkers(2),
        model.description,
        Loader([load, dict(type='mmdet.PackDetInputs')]),
        __file__,
    )
    (result,) = model.predict(tmp_path / 'a.tif').results.values()
    np.testing.assert_array_equal(result.boxes[:, :4], [[35, 22, 10, 4]])
    (result,) = model.predict(tmp_path / 'a.tif', bands=(2, 1)).results.values()
    assert len(result) == 0
    write_scene(tmp_path / 'b.tif', [])
    with pytest.raises(UnusableFileError, match='bands 1 to 3.*--bands'):
        model.predict(tmp_path / 'b.tif')
    with pytest.raises(UnusableFileError, match='uint8, but the config is for uint16'):
        model.predict(tmp_path / 'b.tif', bands=(1, 2))


def test_a_batch_that_fails_is_predicted_image_by_image(tmp_path, monkeypatch):
    """What one image does to the others of its batch is not theirs to bear."""
    paths = [write_scene(tmp_path / f'{name}.tif', PLACES[:3], (64, 64)) for name in 'abc']
    forward, batches = FindMarkers.forward, []

    def fails(self, inputs, data_samples, mode):
        batches.append([os.path.basename(sample.img_path) for sample in data_samples])
        if 'b.tif' in batches[-1]:
            raise ValueError('no memory for it')
        return forward(self, inputs, data_samples, mode)

    monkeypatch.setattr(FindMarkers, 'forward', fails)
    found = list(predict_scenes(finder(), [[path] for path in paths], tmp_path / 'out'))
    assert batches == [['a.tif', 'b.tif', 'c.tif'], ['a.tif'], ['b.tif'], ['c.tif']]
    (_, first), (path, error), (_, last) = found
    assert path == paths[1] and str(error) == f'{path}: no memory for it'
    for each in (first, last):
        assert len(each.results['', 'rotated_detection']) == 3
    assert {path.name for path in (tmp_path / 'out').glob('*.geojson')} == {
        'a.geojson',
        'c.geojson',
    }


def test_a_scene_without_any_data_has_nothing(tmp_path):
    with rasterio.open(
        tmp_path / 'a.tif',
        'w',
        'GTiff',
        90,
        80,
        3,
        dtype='uint8',
        nodata=0,
        crs=UTM,
        transform=NORTH_UP,
    ) as file:
        file.write(np.zeros((3, 80, 90), np.uint8))
    formats = ALL_OBJECTS
    found = finder().predict(tmp_path / 'a.tif', tmp_path / 'out', formats=formats)
    assert len(found.files) == 5 and all(path.is_file() for path in found.files)
    assert json.loads((tmp_path / 'out' / 'a.geojson').read_text())['features'] == []
    assert len(pyogrio.raw.read(tmp_path / 'out' / 'a.gpkg')[2]) == 0


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    scene = write_scene(tmp_path / 'a.tif', PLACES)

    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', full)
        with pytest.raises(OSError, match='No space left'):
            finder().predict(scene, tmp_path / 'out')
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.suffix == '.geojson']
    found = finder().predict(scene, tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.geojson']
    assert len(found.results['', 'rotated_detection']) == len(PLACES)


@pytest.fixture(scope='module')
def change_detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp('change')
    save(config_of('change_detection', folder), folder / 'a.pth')
    return mtp.load(folder / 'a.pth', device='cpu')


def test_the_later_date_is_warped_onto_the_first(change_detector, tmp_path):
    first = write_scene(tmp_path / 'a.tif', PLACES)
    same = write_scene(tmp_path / 'same.tif', PLACES)
    # half as fine, in another reference system, of a part of the ground
    coarse = Affine(2e-5, 0, 9.0002, 0, -2e-5, 47.8532)
    other = write_scene(tmp_path / 'b.tif', [], size=(60, 90), crs=WGS84, transform=coarse)
    found = change_detector.predict((first, other), tile=96)
    assert any('warped onto the grid' in note for note in found.notes)
    (result,) = found.results.values()
    assert result.labels.shape == (200, 300)
    assert (result.labels == 255).any() and (result.labels != 255).any()
    whole = change_detector.predict((first, same), tile=96)
    assert (whole.results['', 'change_detection'].labels != 255).all() and not whole.notes
    far = write_scene(
        tmp_path / 'far.tif', [], crs=WGS84, transform=Affine(1e-5, 0, 1, 0, -1e-5, 1)
    )
    with pytest.raises(UnusableFileError, match='do not overlap'):
        change_detector.predict((first, far))
    plain = write_scene(tmp_path / 'plain.tif', [], size=(50, 50), crs=None)
    with pytest.raises(UnusableFileError, match='no place on the map by which'):
        change_detector.predict((first, plain))
    with pytest.raises(UnusableFileError, match='two dates'):
        change_detector.predict(first)


def test_pixels_without_data_are_skipped(tmp_path):
    pixels = np.zeros((3, 80, 200), np.uint8)
    pixels[:, :, 150:] = 90
    with rasterio.open(
        tmp_path / 'a.tif', 'w', 'GTiff', 200, 80, 3, dtype='uint8', nodata=0
    ) as file:
        file.write(pixels)
    model = finder()
    seen = []
    model.module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs['inputs'])), with_kwargs=True
    )
    assert model.predict(tmp_path / 'a.tif').tiles == 8 and sum(seen) == 4


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    folder = tmp_path_factory.mktemp('segmentor')
    save(config_of('segmentation', folder), folder / 'a.pth')
    return folder / 'a.pth'


def test_gdal_keeps_a_row_of_tiles(tmp_path, monkeypatch):
    """Less, and a striped scene is decoded again for each tile; more is a share of the machine."""
    monkeypatch.delenv('GDAL_CACHEMAX', raising=False)
    monkeypatch.setattr(scenes, 'LEAST_CACHE', 0)
    model, seen = finder(), set()
    model.module.register_forward_pre_hook(lambda *_: seen.add(get_gdal_config('GDAL_CACHEMAX')))
    before = get_gdal_config('GDAL_CACHEMAX')
    model.predict(write_scene(tmp_path / 'a.tif', PLACES))
    (kept,) = seen
    assert 64 * 300 * 3 <= kept <= 1.5 * 64 * 300 * 3
    assert get_gdal_config('GDAL_CACHEMAX') == before


def test_label_maps_have_colours_a_place_and_polygons(segmentor, tmp_path):
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    model = mtp.load(segmentor, device='cpu')
    found = model.predict(scene, tmp_path / 'out', tile=64, polygonize=True)
    assert [path.name for path in found.files] == ['a.tif', 'a.geojson']
    with rasterio.open(tmp_path / 'out' / 'a.tif') as file:
        labels = file.read(1)
        assert file.crs == UTM and file.transform == NORTH_UP and file.nodata == 255
        assert len({file.colormap(1)[label] for label in range(2)}) == 2
        assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
    assert {*np.unique(labels)} <= {0, 1}
    in_memory = model.predict(scene, tile=64)
    (result,) = in_memory.results.values()
    np.testing.assert_array_equal(result.labels, labels)
    polygons = json.loads((tmp_path / 'out' / 'a.geojson').read_text())['features']
    covered = sum(each['properties']['area_m2'] for each in polygons)
    assert covered == pytest.approx(200 * 300 * 0.25, rel=1e-3)
    scores = [each['properties']['score'] for each in polygons]
    assert 0.5 <= min(scores) <= max(scores) < 1


def test_blended_tiles_show_no_seams(segmentor, tmp_path):
    """With a real encoder, which sees all of a tile: the steps across seams, beside the others."""
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    model = mtp.load(segmentor, device='cpu')
    opened = Scene(scene, model.loader, {}, model.mean)
    tiles = Tiles(opened.size, 96, 24)
    blend = Blend(tiles, 2, 'cosine')
    rows = []
    for number in range(len(tiles.tops)):
        blend.start_row(number)
        for top, left in tiles.row(number):
            (found,) = model.samples([opened.read(top, left, 96, 96)], [''])
            blend.add(left, found[''].seg_logits.data.numpy())
        rows.append(blend.finish_row())
    opened.close()
    logits = torch.from_numpy(np.concatenate(rows, 1))
    steps = logits.softmax(0)[1].diff(dim=1).abs().mean(0).numpy()
    seams = {edge - 1 for left in tiles.lefts for edge in (left, left + 96)} & {*range(len(steps))}
    across = np.isin(np.arange(len(steps)), [*seams])
    assert len(tiles.lefts) > 3 and steps[across].mean() < 1.1 * steps[~across].mean()


def predict_until(row, model, scene, out, **options):
    """Predict in another process, which is killed when a row of tiles is written."""
    child = os.fork()
    if not child:
        write = SceneRows.write

        def killed(self, number, content):
            write(self, number, content)
            if number == row:
                os.kill(os.getpid(), signal.SIGKILL)

        SceneRows.write = killed
        try:
            model.predict(scene, out, **options)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_killed_prediction_goes_on_to_the_same_bytes(segmentor, tmp_path, monkeypatch):
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    model = mtp.load(segmentor, device='cpu')
    options = dict(tile=64, formats=('tif', 'gpkg'), batch_size=2)
    model.predict(scene, tmp_path / 'whole', **options)
    expected = {path.name: path.read_bytes() for path in (tmp_path / 'whole').iterdir()}
    out = tmp_path / 'out'
    for row in (0, 1, 2):
        assert predict_until(row, model, scene, out, **options) == -signal.SIGKILL
    assert [path.name for path in out.iterdir()] == ['.a.unfinished']
    with pytest.raises(UnusableFileError, match='another options'):
        model.predict(scene, out, **options | dict(blend='centre'))
    model.predict(scene, out, **options)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
    torch.set_num_threads(threads)


@pytest.mark.parametrize('gsd', [1.46 / 2, 3.3 / 2, 6.6 / 2])
def test_a_resampled_scene_lies_where_it_was(segmentor, gsd, tmp_path):
    """Scales that do not divide the scene: what is found ends where the file does."""
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    left, bottom, right, top = 500_000, 5_299_900, 500_150, 5_300_000
    model = mtp.load(segmentor, device='cpu')
    found = model.predict(scene, tmp_path / 'out', tile=64, gsd=gsd, polygonize=True)
    with rasterio.open(tmp_path / 'out' / 'a.tif') as file:
        np.testing.assert_allclose(file.bounds, (left, bottom, right, top), atol=1e-6)
    (result,) = model.predict(scene, tile=64, gsd=gsd).results.values()
    areas = [each['properties']['area_m2'] for each in result.to_geojson(crs=None)['features']]
    assert sum(areas) == pytest.approx(
        sum(each['properties']['area_m2'] for each in features_of(found.files[1])), rel=1e-6
    )
    # a ramp of coordinates, a grey level a pixel: on average to a tenth of the model's pixel
    with rasterio.open(scene, 'r+') as file:
        ramp = np.stack([np.broadcast_to(np.arange(300) - 45, (200, 300))] * 3)
        file.write(ramp.clip(0).astype(np.uint8))
    opened = Scene(scene, finder().loader, {}, np.zeros(3), gsd=gsd)
    height, width = opened.size
    pixels = opened.read(height - 32, width - 32, 32, 32)['img'][..., 0].astype(float)
    columns = (np.arange(width - 32, width) + 0.5) * opened.scale[0] - 0.5
    found = pixels.mean(0) - (columns - 45)
    assert np.abs(found[2:-2]).max() <= 1 and abs(found[2:-2].mean()) < 0.1 * opened.scale[0]
    opened.close()


def features_of(path):
    return json.loads(path.read_text())['features']


def test_rows_without_data_end_where_the_data_do(segmentor, tmp_path):
    """The last rows of a tile are finished by the next, which may be skipped."""
    model = mtp.load(segmentor, device='cpu')
    for edge in (70, 90, 100, 130):
        path = write_scene(tmp_path / f'{edge}.tif', PLACES, nodata=0)
        with rasterio.open(path, 'r+') as file:
            pixels = file.read()
            pixels[:, edge:] = 0
            file.write(pixels)
        (result,) = model.predict(path, tile=64).results.values()
        assert (result.labels[edge:] == 255).all() and (result.labels[:edge] != 255).all()


def test_inputs_are_not_overwritten(segmentor, tmp_path):
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    before = scene.read_bytes()
    model = mtp.load(segmentor, device='cpu')
    with pytest.raises(UnusableFileError, match='a.tif is an input.*--out'):
        model.predict(scene, tmp_path, tile=64)
    assert scene.read_bytes() == before
    area = tmp_path / 'a.geojson'
    corners = [[500_000, 5_299_900], [500_150, 5_299_900], [500_150, 5_300_000]]
    polygon = dict(type='Polygon', coordinates=[[*corners, corners[0]]])
    crs = dict(type='name', properties=dict(name=f'urn:ogc:def:crs:EPSG::{UTM[5:]}'))
    feature = dict(type='Feature', properties={}, geometry=polygon)
    area.write_text(json.dumps(dict(type='FeatureCollection', crs=crs, features=[feature])))
    with pytest.raises(UnusableFileError, match='a.geojson is an input'):
        finder().predict(scene, tmp_path, area=area)


def test_another_start_is_free_where_no_row_is_finished(segmentor, tmp_path):
    scene = write_scene(tmp_path / 'a.tif', PLACES)
    whole = scene.read_bytes()
    scene.write_bytes(whole[: len(whole) // 3])
    model = mtp.load(segmentor, device='cpu')
    with pytest.raises(UnusableFileError, match=r'a\.tif'):
        model.predict(scene, tmp_path / 'out', tile=64)
    scene.write_bytes(whole)
    model.predict(scene, tmp_path / 'out', tile=96)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.tif']
    small = write_scene(tmp_path / 'b.tif', [], (3, 5))
    with pytest.raises(UnusableFileError, match=r'b\.tif: the image is too small'):
        model.predict(small, tmp_path / 'out', tile=64)


def test_an_engineering_system_is_no_place(tmp_path):
    scene = write_scene(tmp_path / 'a.tif', PLACES, crs='LOCAL_CS["x",UNIT["metre",1]]')
    found = finder(gsd=0.5).predict(scene, tmp_path / 'out')
    assert found.tiles == 24 and any('no place on the map' in note for note in found.notes)
