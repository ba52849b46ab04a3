"""Classification, segmentation and change sets: from the owners' files to checked data."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
from PIL import Image

from mtp.data.checks import check_prepared
from mtp.data.datasets import DATASETS, eurosat, loveda, spacenet_v1, whu
from mtp.data.prepare import footprints
from mtp.data.prepare import images as scenes

MADE = {
    'eurosat': dict(train=60, val=20, test=20),
    'resisc45': dict(train=45, valid=180),
    'spacenet_v1': dict(train=6, val=2),
    'loveda': dict(train=4, val=2, test=2),
    'oscd': dict(train=56, test=40),
    'whu': dict(train=8, val=2, test=2),
    'gvlm': dict(train=10, val=4, test=3),
    'levir': dict(train=8, val=4, test=4),
    'svcd': dict(train=4, val=2, test=2),
    'clcd': dict(train=4, val=4, test=4),
    'egy_bcd': dict(train=4, val=2, test=2),
}
ONERA = 'Onera Satellite Change Detection dataset - '


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """Unspoilt sources, made when asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = DATASETS[name].synthesise(tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture
def source(sources, tmp_path):
    """A source of one's own to spoil."""
    return lambda name: shutil.copytree(sources(name), tmp_path / 'src')


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def read(path):
    return np.asarray(Image.open(path))


def test_classes():
    eurosat, resisc45, loveda = (
        DATASETS[name].classes for name in ('eurosat', 'resisc45', 'loveda')
    )
    assert (len(eurosat), len(resisc45), len(loveda)) == (10, 45, 7)
    assert all(list(classes) == sorted(classes) for classes in (eurosat, resisc45))


@pytest.mark.parametrize(
    'name',
    [
        name
        for name, dataset in DATASETS.items()
        if dataset.task in ('classification', 'segmentation', 'change_detection')
    ],
)
def test_from_source_to_checked_data(name, sources, tmp_path):
    source = sources(name)
    before = files(source)
    report = DATASETS[name].prepare(source, tmp_path)
    assert report.bad == []
    findings = check_prepared(tmp_path, name)
    assert findings.problems == {}
    if name in MADE:
        unit = 'pairs' if DATASETS[name].task == 'change_detection' else 'images'
        assert {key: count for key, count in report.made.items() if key != 'scenes'} == {
            f'{split} {unit}': count for split, count in MADE[name].items()
        }
        expected = dict(MADE[name])
        if name == 'loveda':
            expected = dict(trainval=6, test=2)
        elif name == 'eurosat':
            del expected['test']
        assert findings.images == expected
    assert files(source) == before
    # a second run finds all done
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.[pj]*g')}
    assert DATASETS[name].prepare(source, tmp_path) == report
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.[pj]*g')} == times


def test_the_seed_decides(sources, tmp_path):
    for name in ('eurosat', 'spacenet_v1', 'egy_bcd'):
        assert files(DATASETS[name].synthesise(tmp_path / name)) == files(sources(name))
    other = DATASETS['clcd'].synthesise(tmp_path / 'other', seed=1)
    assert files(other) != files(sources('clcd'))


@pytest.mark.parametrize('name', ['clcd', 'spacenet_v1', 'loveda', 'eurosat'])
def test_an_interrupted_run_is_taken_up(name, sources, tmp_path, monkeypatch):
    DATASETS[name].prepare(sources(name), tmp_path / 'whole')

    class Interrupt(BaseException):
        pass

    real, calls = scenes.whole, Counter()

    def whole(path):
        calls['n'] += 1
        if calls['n'] > 5:
            raise Interrupt
        return real(path)

    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        for module in (scenes, loveda):
            patch.setattr(module, 'whole', whole)
        DATASETS[name].prepare(sources(name), tmp_path / 'cut')
    partial, complete = files(tmp_path / 'cut'), files(tmp_path / 'whole')
    assert 0 < len(partial) < len(complete) and partial.items() <= complete.items()
    DATASETS[name].prepare(sources(name), tmp_path / 'cut')
    assert files(tmp_path / 'cut') == complete


def test_tiles_cover_a_scene_and_what_is_beyond_is_black(sources, tmp_path):
    DATASETS['gvlm'].prepare(sources('gvlm'), tmp_path)
    site = sources('gvlm') / 'GVLM_CD' / 'A Luoi_Vietnam'
    for folder, file in (('A', 'im1'), ('B', 'im2'), ('label', 'ref')):
        whole = read(site / f'{file}.png')
        expected = np.zeros((768, 768, *whole.shape[2:]), np.uint8)
        expected[:520, :520] = whole
        tiles = list(tmp_path.glob(f'*/{folder}/A_Luoi_Vietnam_*.png'))
        assert len(tiles) == 9
        for path in tiles:
            y, x = map(int, path.stem.split('_')[-2:])
            assert (read(path) == expected[y : y + 256, x : x + 256]).all()


def test_images_and_labels_stay_as_they_are(sources, tmp_path):
    DATASETS['loveda'].prepare(sources('loveda'), tmp_path / 'loveda')
    for image in sources('loveda').glob('[TV][ra]*/*/*_png/*.png'):
        kind = 'images' if image.parent.name == 'images_png' else 'labels'
        copy = tmp_path / 'loveda' / 'trainval' / kind / image.name
        assert copy.read_bytes() == image.read_bytes()
    DATASETS['svcd'].prepare(sources('svcd'), tmp_path / 'svcd')
    root = sources('svcd') / 'ChangeDetectionDataset/Real/subset/val'
    assert (read(tmp_path / 'svcd/val/B/val_2.png') == read(root / 'B/val_2.jpg')).all()
    label = read(root / 'OUT/val_2.jpg')
    assert len(np.unique(label)) > 2, 'JPEG blurs it'
    assert (read(tmp_path / 'svcd/val/label/val_2.png') == (label >= 128) * 255).all()


def test_oscd_takes_red_green_and_blue_from_the_bands(sources, tmp_path):
    DATASETS['oscd'].prepare(sources('oscd'), tmp_path)
    city = sources('oscd') / f'{ONERA}Images' / 'bercy'
    assert not (city / 'pair').exists()
    bands = [
        cv2.imread(str(city / f'imgs_2_rect/S2A_{band}.tif'), cv2.IMREAD_UNCHANGED)
        for band in ('B04', 'B03', 'B02')
    ]
    expected = [
        (band.astype(float) - low) / (high - low) * 255
        for band, low, high in zip(bands, (426, 667, 885), (3698, 2969, 2620))
    ]
    tile = read(tmp_path / 'train/B/bercy_0000_0000.png')
    np.testing.assert_allclose(tile, np.stack(expected, 2)[:96, :96], atol=1)
    assert np.stack(bands).std((1, 2)).min() > 0
    # 190 x 180 pixels: 4 tiles a city
    assert len(list((tmp_path / 'test/label').iterdir())) == 4 * 10


def test_whu_in_the_two_regions_of_its_owner(sources, tmp_path):
    whole = sources('whu')
    for region, columns in (('train', slice(0, 520)), ('test', slice(520, 800))):
        for file, target in (
            ('before/before', f'2012/whole_image/{region}/image/2012_{region}'),
            ('after/after', f'2016/whole_image/{region}/image/2016_{region}'),
            ('change label/change_label', f'change_label/{region}/change_label'),
        ):
            path = tmp_path / 'src/1. The two-period image data' / f'{target}.tif'
            path.parent.mkdir(parents=True)
            Image.fromarray(read(whole / f'{file}.tif')[:, columns]).save(path)
    report = DATASETS['whu'].prepare(tmp_path / 'src', tmp_path / 'dst')
    assert report.bad == []
    assert sum(count for key, count in report.made.items() if 'pairs' in key) == 9 + 6


def test_published_sizes():
    """Of the real sets, from the sizes of their images."""
    cities = dict(
        train=[
            (471, 525),
            (395, 360),
            (517, 461),
            (522, 582),
            (408, 390),
            (339, 563),
            (639, 688),
            (799, 785),
            (1015, 788),
            (776, 718),
            (902, 772),
            (695, 540),
            (1180, 1070),
            (858, 557),
        ]
    )
    assert sum(-(-h // 96) * -(-w // 96) for h, w in cities['train']) == 827
    tiles = [f'{i}' for i in range(-(-15354 // 256) * -(-32507 // 256))]
    assert Counter(scenes.deal(tiles, whu.SHARES).values()) == dict(train=5334, val=762, test=1524)
    assert Counter(scenes.deal(map(str, range(6940)), spacenet_v1.SHARES).values()) == (
        dict(train=5000, val=1940)
    )
    assert Counter(scenes.deal(map(str, range(3000)), eurosat.SHARES).values()) == (
        dict(train=1800, val=600, test=600)
    )


def test_a_division_is_always_the_same_one():
    names = [f'tile_{i}' for i in range(100)]
    splits = scenes.deal(names, dict(train=0.7, test=0.3))
    assert splits == scenes.deal(names[::-1], dict(train=0.7, test=0.3))
    assert splits['tile_0'] == 'train' and splits['tile_2'] == 'test', 'not to be changed'


def test_published_lists_decide(source, tmp_path):
    src = source('eurosat')
    names = [path.name for path in sorted(src.rglob('*.jpg'))]
    for split, part in (('train', names[::2]), ('val', names[1::4]), ('test', names[3::4])):
        (src / f'eurosat-{split}.txt').write_text('\n'.join(part))
    assert DATASETS['eurosat'].prepare(src, tmp_path / 'dst').bad == []
    assert sorted(path.name for path in (tmp_path / 'dst/train').rglob('*.jpg')) == names[::2]


def wrong_lists(src):
    names = sorted(path.name for path in src.rglob('*.jpg'))
    classes = DATASETS['resisc45'].classes
    lines = [f'{name} {classes.index(name.rpartition("_")[0])}' for name in names]
    lines[0] = f'{names[0]} 7'
    lines[1] = 'airplane_99.jpg 0'
    lines[2] = f'{names[2]} plane'
    (src / 'mtp').mkdir()
    (src / 'mtp/train_labels_28_mtp.txt').write_text('\n'.join(lines[:50]))
    (src / 'mtp/valid_labels_28_mtp.txt').write_text('\n'.join(lines[49:]))


def cut(path):
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])


def edit(change_pixels):
    return lambda path: Image.fromarray(change_pixels(read(path).copy())).save(path)


def with_value(value):
    def change_pixels(pixels):
        pixels[0, 0] = value
        return pixels

    return edit(change_pixels)


def delete(path):
    path.unlink()


def add(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)


shrink = edit(lambda pixels: pixels[:-8])
GEOJSON = 'geojson/Geo_AOI_1_RIO_img3.geojson'
# data set: (damage, file, what the report says), each on its own
DAMAGE = [
    ('eurosat', cut, '2750/Forest/Forest_3.jpg', ['Forest_3.jpg is missing or no whole image']),
    ('eurosat', add, '2750/Swamp/Swamp_1.jpg', ['Swamp: unknown class; known are AnnualCrop']),
    ('eurosat', shutil.rmtree, '2750/River', ['River: no folder of this class']),
    ('eurosat', lambda path: path.write_text(''), '2750/River/notes.txt', ['notes.txt: no image']),
    (
        'resisc45',
        lambda path: wrong_lists(path.parent),
        'mtp',
        [
            "train_labels_28_mtp.txt, line 2: no image 'airplane_99.jpg 0'",
            'valid_labels_28_mtp.txt, line 1: ',
            'was listed before, for train',
            "line 1: 'airplane_1.jpg 7', but the label of airplane is 0",
            "line 3: 'airplane_3.jpg plane', but",
            'airplane_2: in none of ',
        ],
    ),
    ('loveda', with_value(8), 'Val/Rural/masks_png/5.png', ['5.png holds the value 8: known are']),
    ('loveda', delete, 'Train/Urban/masks_png/1.png', ['1.png: no label of this name']),
    ('loveda', delete, 'Train/Urban/images_png/1.png', ['1.png: a label without an image']),
    ('loveda', shrink, 'Train/Urban/masks_png/0.png', ['0.png has shape (248, 256), the image']),
    ('loveda', cut, 'Test/Urban/images_png/6.png', ['6.png is missing or no whole image']),
    ('spacenet_v1', delete, GEOJSON, ['img3.tif: no file of footprints']),
    ('spacenet_v1', cut, GEOJSON, ['img3.geojson is no whole geojson']),
    (
        'spacenet_v1',
        lambda path: path.write_text(path.read_text().replace('-43.', '43.')),
        GEOJSON,
        ['img3.geojson: all ', 'lie outside the image'],
    ),
    (
        'spacenet_v1',
        lambda path: path.write_text(path.read_text().replace('"Polygon"', '"Disc"')),
        GEOJSON,
        ['img3.geojson, feature 1: '],
    ),
    (
        'spacenet_v1',
        edit(lambda pixels: pixels),
        '3band/3band_AOI_1_RIO_img3.tif',
        ['img3.tif does not tell where it lies'],
    ),
    ('spacenet_v1', cut, '3band/3band_AOI_1_RIO_img3.tif', ['img3.tif is missing or no whole']),
    ('clcd', delete, 'val/time2/val_1.png', ['val/val_1: its second image is missing']),
    ('clcd', delete, 'val/label/val_1.png', ['val/val_1: its label is missing']),
    (
        'clcd',
        delete,
        'val/time1/val_1.png',
        ['time1: no images', 'time2/val_1.png: no image of this name', 'label/val_1.png: no image'],
    ),
    ('clcd', shrink, 'val/time2/val_1.png', ['time2/val_1.png has (height, width) (504, 512)']),
    ('clcd', with_value(128), 'val/label/val_1.png', ['val_1.png holds the values [0, 128, 255]']),
    ('clcd', cut, 'test/time1/test_1.png', ['test/test_1: ', 'time1/test_1.png is missing']),
    ('svcd', cut, 'ChangeDetectionDataset/Real/subset/val/OUT/val_1.jpg', ['OUT/val_1.jpg is']),
    ('oscd', with_value(3), f'{ONERA}Test Labels/rio/cm/rio-cm.tif', ['test/rio: ', '[1, 2, 3]']),
    (
        'oscd',
        lambda path: path.write_text('paris,rome'),
        f'{ONERA}Images/train.txt',
        ['train.txt, line 1: no folder '],
    ),
    (
        'oscd',
        delete,
        f'{ONERA}Images/bercy/imgs_1_rect/S2A_B03.tif',
        ['train/bercy: its first image is missing'],
    ),
    (
        'egy_bcd',
        edit(lambda pixels: np.stack([pixels, pixels * 0, pixels], 2)),
        'test/label/test_1.png',
        ['test_1.png is in colour'],
    ),
]


@pytest.mark.parametrize(('name', 'damage', 'file', 'lines'), DAMAGE)
def test_what_cannot_be_used_is_told(name, damage, file, lines, source, sources, tmp_path):
    src = source(name)
    damage(src / file)
    report = DATASETS[name].prepare(src, tmp_path / 'dst')
    for text in lines:
        assert any(text in line for line in report.bad), report.bad
    assert len(report.bad) <= max(2, len(lines)), report.bad
    assert not list(tmp_path.rglob('*partial*'))
    if damage in (cut, shrink):  # mended and started again, it is as if nothing had been
        shutil.copy(sources(name) / file, src / file)
        assert DATASETS[name].prepare(src, tmp_path / 'dst').bad == []
        DATASETS[name].prepare(src, tmp_path / 'new')
        assert files(tmp_path / 'dst') == files(tmp_path / 'new')


def test_a_division_of_tiles_needs_all_scenes(source, tmp_path):
    src = source('gvlm')
    delete(src / 'GVLM_CD/Asakura_Japan/im1.png')
    with pytest.raises(ValueError, match='Asakura_Japan: its first image is missing.*mend'):
        DATASETS['gvlm'].prepare(src, tmp_path / 'dst')


def test_a_wrong_folder_is_refused(tmp_path):
    for name in MADE:
        with pytest.raises((FileNotFoundError, ValueError), match='.'):
            assert DATASETS[name].prepare(tmp_path, tmp_path / name).bad
        assert not list((tmp_path / name).rglob('*.png'))


SPOIL = [
    ('eurosat', cut, 'val/Forest/*.jpg', 'image'),
    ('eurosat', lambda path: path.rename(path.with_name('Swamp')), 'val/Forest', 'class'),
    (
        'eurosat',
        lambda path: shutil.copy(path, path.parents[2] / 'train/River'),
        'val/River/*.jpg',
        'overlap',
    ),
    (
        'resisc45',
        lambda path: path.write_text(path.read_text() + 'a.jpg 45\n'),
        'mtp/train_labels_28_mtp.txt',
        'class',
    ),
    ('resisc45', delete, 'mtp/valid_labels_28_mtp.txt', 'split'),
    ('loveda', with_value(9), 'trainval/labels/*.png', 'label'),
    ('spacenet_v1', with_value(255), 'val/labels/*.png', 'label'),
    ('clcd', with_value(1), 'val/label/*.png', 'label'),
    ('clcd', shrink, 'val/B/*.png', 'size'),
    ('clcd', delete, 'val/A/*.png', 'partner'),
    ('clcd', shutil.rmtree, 'val', 'split'),
]


@pytest.mark.parametrize(('name', 'damage', 'pattern', 'kind'), SPOIL)
def test_the_checker_finds_damage(name, damage, pattern, kind, sources, tmp_path):
    DATASETS[name].prepare(sources(name), tmp_path)
    damage(next(tmp_path.glob(pattern)))
    assert kind in check_prepared(tmp_path, name).problems


def test_real_oscd(shared, tmp_path):
    for part in ('Images', 'Train Labels'):
        for city in ('aguasclaras', 'bercy', 'rennes'):
            link = tmp_path / 'src' / f'{ONERA}{part}' / city
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(shared / 'data/oscd' / f'{ONERA}{part}' / city)
    report = DATASETS['oscd'].prepare(tmp_path / 'src', tmp_path)
    assert report.made == {'scenes': 3, 'train pairs': 30 + 20 + 24}
    assert len(report.bad) == 21 and all('no folder' in line for line in report.bad)
    label = read(shared / f'data/oscd/{ONERA}Train Labels/aguasclaras/cm/aguasclaras-cm.tif')
    tile = read(tmp_path / 'train/label/aguasclaras_0096_0192.png')
    assert (tile == (label[96:192, 192:288] == 2) * 255).all() and tile.any()


def test_real_change_pairs(shared, tmp_path):
    report = DATASETS['egy_bcd'].prepare(shared / 'data/egy_bcd_samples', tmp_path / 'egy')
    assert report.made == {'scenes': 9, 'train pairs': 4, 'val pairs': 3, 'test pairs': 2}
    assert not report.bad and not check_prepared(tmp_path / 'egy', 'egy_bcd').problems
    samples = shared / 'data/levir_cd_samples'
    for path in samples.glob('*/*.png'):
        target = tmp_path / 'src' / path.name.split('_')[0] / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    report = DATASETS['levir'].prepare(tmp_path / 'src', tmp_path / 'levir')
    # one of the samples has lost its label
    assert report.made == {'scenes': 11, 'train pairs': 3, 'val pairs': 1, 'test pairs': 7}
    assert report.bad == ['test/test_113_0256: its label is missing']


def test_real_loveda(shared, tmp_path):
    fixture = shared / 'data/mmseg_fixtures/pseudo_loveda_dataset'
    for split, area, number in (
        ('Train', 'Urban', 0),
        ('Train', 'Rural', 1),
        ('Val', 'Urban', 2),
        ('Val', 'Rural', None),
        ('Test', 'Urban', None),
        ('Test', 'Rural', None),
    ):
        for kind, folder in (('images_png', 'img_dir'), ('masks_png', 'ann_dir')):
            where = tmp_path / 'src' / split / area / kind
            where.mkdir(parents=True)
            if number is not None:
                shutil.copy(fixture / folder / f'{number}.png', where)
    report = DATASETS['loveda'].prepare(tmp_path / 'src', tmp_path / 'dst')
    assert report.made == {'train images': 2, 'val images': 1, 'test images': 0}
    assert len(report.bad) == 4 and all('_png: no images' in line for line in report.bad)
    labels = read(tmp_path / 'dst/trainval/labels/1.png')
    assert set(np.unique(labels)) <= set(range(8)) and labels.shape == (1024, 1024)


def test_real_footprints_as_another_program_burns_them(shared, tmp_path):
    scene = shared / 'data/spacenet_solaris'
    with open(scene / 'sample.csv') as file:
        geometries = [
            json.loads(shapely.to_geojson(shapely.from_wkt(row['PolygonWKT_Pix'])))
            for row in csv.DictReader(file)
        ]
    (tmp_path / 'pixels.geojson').write_text(
        json.dumps(dict(features=[dict(geometry=geometry) for geometry in geometries]))
    )
    labels = footprints.burn(tmp_path / 'pixels.geojson', (np.zeros(2), np.ones(2)), (900, 900))
    assert (labels == (read(scene / 'sample_fp_mask.tif') > 0)).all()

    # the whole way, with the coordinates of a map
    (tmp_path / '3band').mkdir()
    (tmp_path / 'geojson').mkdir()
    grey = cv2.imread(str(scene / 'sample_geotiff.tif'), cv2.IMREAD_UNCHANGED)
    with Image.open(scene / 'sample_geotiff.tif') as image:
        tags = {tag: image.tag_v2[tag] for tag in (33550, 33922)}
    colour = np.repeat((grey // 8).clip(0, 255).astype(np.uint8)[..., None], 3, 2)
    Image.fromarray(colour).save(tmp_path / '3band/3band_x.tif', tiffinfo=tags)
    shutil.copy(scene / 'geotiff_labels.geojson', tmp_path / 'geojson/Geo_x.geojson')
    assert DATASETS['spacenet_v1'].prepare(tmp_path, tmp_path / 'dst').bad == []
    labels = read(tmp_path / 'dst/train/labels/3band_x.png')
    origin, step = footprints.geotransform(scene / 'sample_geotiff.tif')
    building = shapely.from_geojson(
        json.dumps(
            json.loads((scene / 'geotiff_labels.geojson').read_text())['features'][0]['geometry']
        )
    )
    x, y = (np.array(building.representative_point().coords[0]) - origin) / step
    assert labels[int(y), int(x)] == 1 and 0.01 < labels.mean() < 0.5


def test_real_scenes_as_a_classification_set(shared, tmp_path, monkeypatch):
    classes = ('Airport', 'Beach', 'Port')
    for path in (path for name in classes for path in (shared / 'data/aid_150px' / name).iterdir()):
        target = tmp_path / 'src' / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    monkeypatch.setattr(eurosat, 'DATASET', replace(eurosat.DATASET, classes=classes))
    report = DATASETS['eurosat'].prepare(tmp_path / 'src', tmp_path / 'dst')
    assert report.bad == []
    assert report.made == {'train images': 108, 'val images': 36, 'test images': 36}
