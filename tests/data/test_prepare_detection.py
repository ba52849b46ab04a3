"""Detection sets, from what their owners distribute to what the configs read."""
import importlib.util
import json
import re
import runpy
import shutil
from collections import defaultdict
from pathlib import Path

import cv2
import mmrotate
import numpy as np
import pytest
import torch
from mmrotate.datasets import DIORDataset
from mmrotate.evaluation import DOTAMetric
from mmrotate.structures.bbox import qbox2rbox

from mtp.data.checking_downstream import check_prepared
from mtp.data.facts import DATASETS
from mtp.data.facts.detection import DETECTION
from mtp.data.prepare import PREPARE, horizontal, prepare, rotated, scenes, tiling
from mtp.data.prepare.boxes import checked, oriented, read_dota, read_fair1m, read_xml
from mtp.data.prepare.tiling import CUT, Tiling, shares
from mtp.data.synthetic import MAKE, detection

# Smaller than what the tool makes, for speed; those to spoil are smaller than a tile.
SMALL = {
    'xview': dict(num=3, image_size=500), 'dior': dict(num_trainval=4, num_test=2),
    'dior_r': dict(num_trainval=4, num_test=2),
    'fair1m': dict(num_train=2, num_val=1, num_test=1, image_size=900),
    'dota_v1': dict(num_train=1, num_val=1, num_test=1, image_size=1100),
    'dota_v2': dict(num_train=1, num_val=1, num_test=1, image_size=500)}
TINY = {'fair1m': dict(num_train=3, num_val=1, num_test=1, image_size=300),
        'dota_v1': dict(num_train=2, num_val=1, num_test=1, image_size=300)}
TOOL = Path(__file__).parents[2] / 'tools' / 'data' / 'prepare.py'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Sources and what was prepared of them, made when asked for; not to be changed."""
    results = {}

    def get(name):
        if name not in results:
            root = tmp_path_factory.mktemp(name)
            detection.MAKE[name](root / 'src', **SMALL[name])
            results[name] = root / 'src', root / 'dst', prepare(name, root / 'src', root / 'dst')
        return results[name]
    return get


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return {name: detection.MAKE[name](tmp_path_factory.mktemp(name), **SMALL[name] | sizes)
            for name, sizes in TINY.items()}


@pytest.fixture
def source(made, tiny, tmp_path):
    """A source of one's own to spoil."""
    return lambda name: shutil.copytree(tiny.get(name) or made(name)[0], tmp_path / 'src')


def files(root):
    return {str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob('*')) if path.is_file()}


def boxes_of(path):
    """Corners, class and difficulty of each line of a tile's label file."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(np.array(line[:8], float).reshape(4, 2), line[8], int(line[9])) for line in lines]


def place(stem):
    """Image, side, x, y of a tile."""
    name, side, x, y = re.fullmatch(r'(.+?)__(\d+)__(\d+)___(\d+)', stem).groups()
    return name, int(side), int(x), int(y)


def test_every_set_has_facts_a_preparation_and_a_small_copy():
    assert set(PREPARE) == set(MAKE) == set(DATASETS)
    assert set(detection.MAKE) == set(DETECTION)
    assert {name: len(facts.classes) for name, facts in DETECTION.items()} == dict(
        xview=60, dior=20, dior_r=20, fair1m=37, dota_v1=15, dota_v2=18)
    assert len(horizontal.XVIEW_TYPES) == 60


@pytest.mark.parametrize('name', DETECTION)
def test_prepared_sets_pass_the_checks(name, made):
    _, dst, report = made(name)
    assert report.bad == []
    findings = check_prepared(dst, name)
    assert findings.problems == {}
    assert findings.objects == sum(
        count for what, count in report.made.items() if what.endswith('objects')) > 10
    assert not list(dst.rglob('.*'))


def test_dior_json_holds_the_boxes_of_the_xml(made):
    src, dst, _ = made('dior')
    for split, stems in (('trainval', ['00001', '00003', '00002', '00004']),
                         ('test', ['00005', '00006'])):
        coco = json.loads((dst / f'DIOR_{split}_coco.json').read_text())
        assert [image['file_name'] for image in coco['images']] == [f'{s}.jpg' for s in stems]
        assert [c['name'] for c in coco['categories']] == list(DETECTION['dior'].classes)
        assert [a['id'] for a in coco['annotations']] == [
            i + 1 for i in range(len(coco['annotations']))]
        for image in coco['images']:
            stem = Path(image['file_name']).stem
            root, _ = read_xml(src / f'Annotations/Horizontal Bounding Boxes/{stem}.xml')
            expected = []
            for element in root.iter('object'):
                x1, y1, x2, y2 = (float(element.findtext(f'bndbox/{side}'))
                                  for side in ('xmin', 'ymin', 'xmax', 'ymax'))
                label = DETECTION['dior'].classes.index(element.findtext('name').lower())
                expected.append((label, [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)))
            assert expected == [(a['category_id'], a['bbox'], a['area'])
                                for a in coco['annotations'] if a['image_id'] == image['id']]
            where = f'JPEGImages-{split}/{stem}.jpg'
            assert (src / where).read_bytes() == (dst / where).read_bytes()


def test_dior_r_is_read_by_mmrotate_without_degenerate_boxes(source, tmp_path):
    src = source('dior_r')
    path = src / 'Annotations/Oriented Bounding Boxes/00001.xml'
    original = [box.corners for box in oriented(read_xml(path)[1])]
    text = path.read_text()
    x1, x2 = (re.search(f'<x_{side}_top>(.*?)<', text)[1] for side in ('left', 'right'))
    y1, y2 = (re.search(f'<y_{side}_top>(.*?)<', text)[1] for side in ('left', 'right'))
    path.write_text(text.replace(f'right_top>{x2}<', f'right_top>{x1}<', 1)
                    .replace(f'right_top>{y2}<', f'right_top>{y1}<', 1))
    report = prepare('dior_r', src, tmp_path / 'dst')
    assert report.left_out['objects with two equal corners'] == 1
    dataset = DIORDataset(data_root=str(tmp_path / 'dst'), ann_file='ImageSets/Main/train.txt',
                          data_prefix=dict(img_path='JPEGImages-trainval'))
    assert [Path(info['img_path']).name for info in dataset] == ['00001.jpg', '00003.jpg']
    np.testing.assert_array_equal([i['bbox'].reshape(4, 2) for i in dataset[0]['instances']],
                                  original[1:])


def test_xview_boxes_lie_in_each_tile_that_holds_their_centre(made):
    src, dst, report = made('xview')
    assert report.left_out == {
        'objects of 1395.tif, which was never distributed': 1, 'objects without a box': 1,
        'objects of the type ids 75 and 82, which have no name': 3}
    assert report.made['train scenes'] + report.made['val scenes'] == 3
    features = json.loads((src / 'xView_train.geojson').read_text())['features']
    names = set()
    for split in ('train', 'val'):
        coco = json.loads((dst / f'xview_{split}_coco_format.json').read_text())
        assert {image['file_name'] for image in coco['images']} == {
            path.name for path in (dst / split / 'images').iterdir()}
        for image in coco['images']:
            stem, side, x, y = place(Path(image['file_name']).stem)
            pixels = cv2.imread(str(src / 'train_images' / f'{stem}.tif'))
            height, width = pixels.shape[:2]
            assert side == 416 and x in ({0} if width < 416 else {0, width - 416})
            padded = np.full((416, 416, 3), 128, np.uint8)
            part = pixels[y:y + 416, x:x + 416]
            padded[:part.shape[0], :part.shape[1]] = part
            tile = cv2.imread(str(dst / split / 'images' / image['file_name']))
            np.testing.assert_array_equal(tile, padded)
            expected = []
            for feature in features:
                p = feature['properties']
                if p['image_id'] == f'{stem}.tif' and p['bounds_imcoords'] and p['type_id'] != 75:
                    x1, y1, x2, y2 = np.clip([int(v) for v in p['bounds_imcoords'].split(',')],
                                             0, [width, height] * 2)
                    if x <= (x1 + x2) / 2 < x + 416 and y <= (y1 + y2) / 2 < y + 416:
                        x1, x2 = np.clip((x1 - x, x2 - x), 0, 416)
                        y1, y2 = np.clip((y1 - y, y2 - y), 0, 416)
                        expected.append(({11: 0, 25: 11, 51: 31, 86: 55, 94: 59}[p['type_id']],
                                         [x1, y1, x2 - x1, y2 - y1]))
            assert expected == [(a['category_id'], a['bbox']) for a in coco['annotations']
                                if a['image_id'] == image['id']]
            names.add(stem)
    assert names == {'100', '107', '114'}


def test_xview_tiles_are_evenly_spaced():
    assert horizontal._starts(300) == horizontal._starts(416) == [0]
    assert horizontal._starts(417) == [0, 1]
    assert horizontal._starts(1300) == [0, 294, 589, 884]


@pytest.mark.parametrize('name', ['dota_v1', 'fair1m'])
def test_tiles_hold_the_objects_of_their_image(name, made):
    src, dst, report = made(name)
    if name == 'dota_v1':
        images = {path.stem: path for path in src.glob('*/images/*.png')}
        labels = {path.stem: read_dota(path) for path in src.glob('*/labelTxt/*.txt')}
        side, first = 1024, 'P0000'
    else:
        images = {('val_' if 'validation' in path.parts else 'train_') + path.stem: path
                  for path in src.rglob('images/*.tif') if 'test' not in path.parts}
        labels = {('val_' if 'validation' in path.parts else 'train_') + path.stem:
                  read_fair1m(path) for path in src.rglob('labelXml/*.xml')}
        side, first = 800, 'train_0'
    labels = {stem: list(boxes) for stem, boxes in labels.items()}
    seen = defaultdict(list)
    for path in sorted((dst / 'trainval' / 'annfiles').iterdir()):
        stem, tile_side, x, y = place(path.stem)
        assert tile_side == side
        pixels = cv2.imread(str(images[stem]))[y:y + side, x:x + side]
        tile = cv2.imread(str(dst / 'trainval' / 'images' / f'{path.stem}.png'))
        np.testing.assert_array_equal(tile, pixels)
        found = boxes_of(path)
        assert found
        for corners, label, difficulty in found:
            i = next(i for i, box in enumerate(labels[stem])
                     if np.allclose(box.corners, corners + (x, y), atol=1e-5))
            box = labels[stem][i]
            assert label == box.name
            inside = (corners >= 0).all() and (corners <= side).all()
            assert difficulty == (box.difficulty if inside else CUT)
            seen[stem].append(i)
    assert set(seen) == set(labels) and first in seen
    held = sum(len(set(found)) for found in seen.values())
    assert held + report.left_out['objects that no tile holds'] == sum(map(len, labels.values()))
    assert report.left_out['objects that no tile holds'] == 0 or name == 'fair1m'
    assert len(list((dst / 'test' / 'images').iterdir())) == 4
    assert not (dst / 'test' / 'annfiles').exists()


def test_windows_and_shares_are_those_of_mmrotates_tool():
    rng = np.random.default_rng(0)
    path = Path(mmrotate.__file__).parent / '.mim/tools/data/dota/split/img_split.py'
    if not path.is_file():
        pytest.skip('this mmrotate comes without its tools')
    spec = importlib.util.spec_from_file_location('img_split', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for plan in rotated.TILINGS['dota'].values():
        sides = [int(plan.side / rate) for rate in plan.rates]
        overlaps = [int(plan.overlap / rate) for rate in plan.rates]
        for height, width in (*rng.integers(100, 6000, (40, 2)), (1024, 1024), (1848, 2048)):
            theirs = tool.get_sliding_window(dict(height=height, width=width), sides, overlaps, 0.6)
            ours = plan.windows(height, width)
            np.testing.assert_array_equal(ours[:, :2], theirs[:, :2])
            np.testing.assert_array_equal(ours[:, :2] + ours[:, 2:], theirs[:, 2:])
    tiles = Tiling(300, 100, (0.5, 1.0)).windows(900, 1000)
    corners = np.stack([cv2.boxPoints(((x, y), (w, h), angle)) for x, y, w, h, angle in
                        rng.uniform((0, 0, 5, 5, 0), (1000, 900, 300, 100, 90), (50, 5))])
    squares = np.concatenate([tiles[:, :2], tiles[:, :2] + tiles[:, 2:]], 1)
    theirs = tool.bbox_overlaps_iof(corners.reshape(-1, 8), squares)
    np.testing.assert_allclose(shares(corners, tiles), theirs, atol=1e-5)


def test_predictions_of_tiles_of_several_scales_merge_to_images(made, tmp_path):
    src, *_ = made('dota_v1')
    dst = tmp_path / 'dst'
    report = prepare('dota_v1', src, dst, multi_scale=True)
    sides = {place(path.stem)[1] for path in (dst / 'trainval' / 'images').iterdir()}
    assert sides == {1024, 682} and report.made['test tiles'] == 13
    results = []
    for path in sorted((dst / 'trainval' / 'annfiles').iterdir()):
        found = boxes_of(path)
        corners = torch.tensor(np.stack([corners.reshape(8) for corners, *_ in found])).float()
        results.append(dict(
            img_id=path.stem, bboxes=qbox2rbox(corners).numpy(), scores=np.ones(len(found)) * 0.9,
            labels=np.array([DETECTION['dota_v1'].classes.index(name) for _, name, _ in found])))
    metric = DOTAMetric(format_only=True, merge_patches=True, outfile_prefix='unused')
    metric.dataset_meta = dict(classes=DETECTION['dota_v1'].classes)
    metric.merge_results(results, str(tmp_path / 'merged'))
    for path in src.glob('*/labelTxt/*.txt'):
        for name in ('plane', 'ship', 'tennis-court', 'storage-tank'):
            expected = sorted(tuple(box.corners.mean(0)) for box in read_dota(path)
                              if box.name == name)
            lines = (tmp_path / 'merged' / f'Task1_{name}.txt').read_text().splitlines()
            merged = sorted(tuple(np.array(line.split()[2:], float).reshape(4, 2).mean(0))
                            for line in lines if line.split()[0] == path.stem)
            np.testing.assert_allclose(merged, expected, atol=0.1)


def test_small_images_and_objects_without_extent(source, tmp_path):
    src = source('dota_v1')
    image = src / 'train' / 'images' / 'P0000.png'
    cv2.imwrite(str(image), cv2.imread(str(image))[:200])
    (src / 'train' / 'labelTxt' / 'P0000.txt').write_text(
        '10 10 60 10 60 40 10 40 ship 1\n10 10 10 10 10 10 10 10 ship 0\n'
        '-30 50 30 50 30 80 -30 80 ship 1\n10 100 60 130 60 100 10 130 ship 0\n')
    for stem in ('train/labelTxt/P0001', 'val/labelTxt/P0002'):
        (src / f'{stem}.txt').write_text('imagesource:GoogleEarth\ngsd:null\n')
    report = prepare('dota_v1', src, tmp_path / 'dst')
    assert report.bad == []
    tile, = (tmp_path / 'dst' / 'trainval' / 'images').iterdir()
    assert tile.name == 'P0000__1024__0___0.png'
    pixels = cv2.imread(str(tile))
    assert pixels.shape == (1024, 1024, 3) and pixels[200, 299].tolist() == [104, 116, 124]
    assert [(name, difficulty) for _, name, difficulty in boxes_of(
        tile.parents[1] / 'annfiles' / f'{tile.stem}.txt')] == [('ship', 1), ('ship', 0)]
    assert report.left_out == {'objects without extent': 1, 'objects that no tile holds': 1,
                               'tiles without objects': 2}


@pytest.mark.parametrize(('name', 'module'), [('dota_v1', tiling), ('xview', horizontal)])
def test_an_interrupted_run_goes_on(name, module, made, tmp_path, monkeypatch):
    src, finished, _ = made(name)
    dst = tmp_path / 'dst'
    written = []

    def interrupt(path, pixels):
        if len(written) == 3:
            (path.parent / f'.1.partial.{path.name}').write_bytes(b'half')
            raise KeyboardInterrupt
        scenes.write_png(path, pixels)
        written.append(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, 'write_png', interrupt)
        prepare(name, src, dst)
    # the last one may lack its label, and is then written again
    times = {path: path.stat().st_mtime_ns for path in written[:2]}
    prepare(name, src, dst)
    assert files(dst) == files(finished)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    again = prepare(name, src, dst)
    assert again == made(name)[2]
    with pytest.raises(FileExistsError, match='something else'):
        prepare('levir', src, dst)


def spoil(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def truncate(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


DOTA_LINE = 'gsd:0.146343590398\n'
BAD = {
    'unknown class': ('dota_v1', lambda s: spoil(
        s / 'train/labelTxt/P0000.txt', DOTA_LINE, f'{DOTA_LINE}1 1 9 1 9 9 1 9 boat 0\n'),
        r"train/labelTxt/P0000\.txt, line 3: unknown class 'boat'"),
    'fields': ('dota_v1', lambda s: spoil(
        s / 'train/labelTxt/P0000.txt', DOTA_LINE, f'{DOTA_LINE}1 1 9 1 9 9 1 9 ship\n'),
        r'P0000\.txt, line 3: .* is not of the form "x1 y1'),
    'number': ('dota_v1', lambda s: spoil(
        s / 'val/labelTxt/P0002.txt', DOTA_LINE, f'{DOTA_LINE}1 1 nan 1 9 9 1 9 ship 0\n'),
        r'P0002\.txt, line 3: .* are not all finite'),
    'range': ('dota_v1', lambda s: spoil(
        s / 'val/labelTxt/P0002.txt', DOTA_LINE, f'{DOTA_LINE}1 301 9 301 9 309 1 309 ship 0\n'
        ), r'P0002\.txt, line 3: .* outside the image, which has 300 x 300 pixels'),
    'image': ('dota_v1', lambda s: truncate(s / 'train/images/P0000.png'),
              r'P0000\.png is missing or no whole image: image file is truncated'),
    'no label': ('dota_v1', lambda s: (s / 'train/labelTxt/P0000.txt').unlink(),
                 r'images/P0000\.png: no label .*labelTxt/P0000\.txt'),
    'no image': ('dota_v1', lambda s: (s / 'train/images/P0000.png').unlink(),
                 r'labelTxt/P0000\.txt: no image of this name'),
    'fair1m class': ('fair1m', lambda s: spoil(
        s / 'train/part1/labelXml/0.xml', '<name>', '<name>Old '),
        r"labelXml/0\.xml, line 1\d: unknown class 'Old-"),
    'fair1m cut': ('fair1m', lambda s: truncate(s / 'train/part1/labelXml/0.xml'),
                   r'labelXml/0\.xml is no whole xml: .* line \d+, column \d+'),
    'fair1m points': ('fair1m', lambda s: spoil(
        s / 'validation/labelXml/0.xml', '<point>', '<point>1,'),
        r'validation/labelXml/0\.xml, line 1\d: it has 5 points'),
    'dior side': ('dior', lambda s: spoil(
        s / 'Annotations/Horizontal Bounding Boxes/00005.xml', '<xmax>', '<xmax>a'),
        r"00005\.xml, line \d: '.*' are not all numbers"),
    'dior size': ('dior', lambda s: spoil(
        s / 'Annotations/Horizontal Bounding Boxes/00005.xml', '<width>256', '<width>800'),
        r'00005\.xml is of an image of height and width \(256, 800\)'),
    'dior list': ('dior', lambda s: spoil(s / 'ImageSets/Main/val.txt', '00002', '00001'),
                  r"val\.txt, line 1: '00001' was listed before"),
    'dior_r corner': ('dior_r', lambda s: spoil(
        s / 'Annotations/Oriented Bounding Boxes/00003.xml', 'x_left_top>', 'x_left>'),
        r'00003\.xml is no whole xml'),
    'dior_r missing': ('dior_r', lambda s: (
        s / 'Annotations/Oriented Bounding Boxes/00003.xml').unlink(), r"No such file.*00003\.xml"),
    'xview type': ('xview', lambda s: spoil(s / 'xView_train.geojson', '"type_id": 75',
                                            '"type_id": 7'),
                   r'100\.tif: .*geojson, feature \d+: unknown type_id 7'),
    'xview bounds': ('xview', lambda s: spoil(s / 'xView_train.geojson',
                                              '"bounds_imcoords": "', '"bounds_imcoords": "7,'),
                     r"feature 1: bounds_imcoords are '7,.*', not four numbers"),
    'xview image': ('xview', lambda s: truncate(s / 'train_images/114.tif'),
                    r'^\S+/114\.tif is missing or no'),
    'xview gone': ('xview', lambda s: (s / 'train_images/107.tif').unlink(),
                   r"\d+ objects of '107\.tif', but no such image"),
}


@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be_used_is_named_and_the_rest_is_prepared(case, source, tmp_path):
    name, spoil_source, message = BAD[case]
    src = source(name)
    spoil_source(src)
    report = prepare(name, src, tmp_path / 'dst')
    assert len(report.bad) == (2 if case == 'dior list' else 1)
    assert re.search(message, report.bad[0])
    if case not in ('xview gone', 'no label', 'no image'):
        assert check_prepared(tmp_path / 'dst', name).problems == {}


def test_the_tool_lists_sets_and_fails_if_something_was_left_out(source, tmp_path, monkeypatch,
                                                                 capsys):
    def run(*args):
        monkeypatch.setattr('sys.argv', [str(TOOL), *map(str, args)])
        with pytest.raises(SystemExit) as exit_info:
            runpy.run_path(str(TOOL), run_name='__main__')
        return exit_info.value.code

    assert not run('--list')
    listed = ' '.join(capsys.readouterr().out.split())
    assert all(f'{name}: {facts.title}' in listed and facts.licence in listed
               and facts.layout in listed for name, facts in DATASETS.items())
    src = source('dior')
    truncate(src / 'JPEGImages-test' / '00005.jpg')
    assert run('dior', src, tmp_path / 'dst') == 1
    out, err = capsys.readouterr()
    assert f'{tmp_path}/dst: 4 trainval images' in out
    assert '1 could not be used:' in err and '00005.jpg' in err
    for args, message in (((src / 'none', tmp_path / 'new'), 'no folder'),
                          ((src, src), 'holds something else'),
                          ((src, tmp_path / 'new', '--multi-scale'), 'one scale only'),
                          ((src / 'Annotations', tmp_path / 'new'), 'has no folder')):
        assert run('dior', *args) == 2
        assert message in capsys.readouterr().err


def test_real_labels_of_fair1m(shared):
    paths = sorted((shared / 'data' / 'fair1m_labels').rglob('*.xml'))
    total = sum(len(checked(read_fair1m(path), DETECTION['fair1m'].classes, (3000, 3000)))
                for path in paths)
    assert (len(paths), total) == (350, 12103)


def test_real_images_of_dota(shared, tmp_path):
    data = shared / 'data' / 'dota_samples'
    for folder in ('train/images', 'train/labelTxt', 'val/images', 'val/labelTxt', 'test/images'):
        (tmp_path / 'src' / folder).mkdir(parents=True)
    for split, stem in (('train', 'P0706'), ('val', 'P1888')):
        shutil.copy(data / 'images' / f'{stem}.png', tmp_path / 'src' / split / 'images')
        shutil.copy(data / 'labelTxt' / f'{stem}.txt', tmp_path / 'src' / split / 'labelTxt')
    shutil.copy(data / 'unlabelled' / 'mmrotate_dota_demo.jpg', tmp_path / 'src/test/images')
    report = prepare('dota_v1', tmp_path / 'src', tmp_path / 'dst')
    assert report.bad == [] and report.left_out['objects that no tile holds'] == 0
    assert report.made['test tiles'] > 1
    seen = set()
    for path in (tmp_path / 'dst' / 'trainval' / 'annfiles').iterdir():
        stem, _, x, y = place(path.stem)
        seen |= {(stem, *np.round(corners + (x, y), 3).reshape(-1))
                 for corners, *_ in boxes_of(path)}
    expected = {(path.stem, *box.corners.reshape(-1)) for path in
                (data / 'labelTxt').iterdir() for box in read_dota(path)}
    assert seen == expected and len(seen) > 50
    for path in (data / 'labels_without_image').iterdir():
        assert checked(read_dota(path), DETECTION['dota_v2'].classes, (20000, 20000))


def test_the_real_image_of_dior_r(shared, tmp_path):
    data, src = shared / 'data' / 'dior_r', tmp_path / 'src'
    shutil.copytree(data / 'Annotations', src / 'Annotations')
    shutil.copytree(data / 'JPEGImage', src / 'JPEGImages-trainval')
    (src / 'JPEGImages-test').mkdir()
    shutil.copy(data / 'JPEGImage' / '00001.jpg', src / 'JPEGImages-test' / '00002.jpg')
    annotations = src / 'Annotations' / 'Oriented Bounding Boxes'
    shutil.copy(annotations / '00001.xml', annotations / '00002.xml')
    (src / 'Main').mkdir()
    for split, listed in (('train', '00001\n'), ('val', ''), ('test', '00002\n')):
        (src / 'Main' / f'{split}.txt').write_text(listed)
    report = prepare('dior_r', src, tmp_path / 'dst')
    assert report.bad == [] and report.made['train objects'] == 1
    dataset = DIORDataset(data_root=str(tmp_path / 'dst'), ann_file='ImageSets/Main/train.txt',
                          data_prefix=dict(img_path='JPEGImages-trainval'))
    assert dataset[0]['instances'][0]['bbox'].tolist() == [133, 237, 684, 237, 684, 672, 133, 672]
