"""Detection sets, from what their owners distribute to what the configs read."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmrotate.datasets import DIORDataset, DOTADataset

from mtp.data import BoxFilesDetection
from mtp.data.checks import check_prepared
from mtp.data.class_names import ClassNames
from mtp.data.datasets import DATASETS, xview
from mtp.data.formats import usable
from mtp.data.formats.dota_text import read_dota
from mtp.data.formats.object_xml import (
    CORNER_TAGS,
    read_dior_r,
    read_fair1m,
    read_objects,
)
from mtp.data.prepare import prepare
from mtp.data.tally import Tally
from tests.conftest import REPO
from tests.data.tiles import boxes_of, place

NUM_CLASSES = dict(xview=60, dior=20, dior_r=20, fair1m=37, dota_v1=15, dota_v2=18)


def dior_r(root):
    return BoxFilesDetection(
        'dior_r',
        dataset='dior_r',
        data_root=str(root),
        ann_file='Annotations/Oriented Bounding Boxes',
        image_set='ImageSets/Main/train.txt',
        data_prefix=dict(img_path='JPEGImages-trainval'),
    )


def test_classes():
    assert {name: len(DATASETS[name].classes) for name in NUM_CLASSES} == NUM_CLASSES
    assert len(xview.TYPES) == 60


@pytest.mark.parametrize(
    'name',
    [
        name
        for name, dataset in DATASETS.items()
        if dataset.task in ('horizontal_detection', 'rotated_detection')
    ],
)
def test_prepared_sets_pass_the_checks(name, detection_set):
    _, dst, report = detection_set(name)
    assert report.bad == []
    findings = check_prepared(dst, name)
    assert findings.problems == {}
    assert (
        findings.objects
        == sum(count for what, count in report.made.items() if what.endswith('objects'))
        > 10
    )
    assert not list(dst.rglob('.*'))


def test_dior_json_holds_the_boxes_of_the_xml(detection_set):
    src, dst, _ = detection_set('dior')
    for split, stems in (
        ('trainval', ['00001', '00003', '00002', '00004']),
        ('test', ['00005', '00006']),
    ):
        coco = json.loads((dst / f'DIOR_{split}_coco.json').read_text())
        assert [image['file_name'] for image in coco['images']] == [f'{s}.jpg' for s in stems]
        assert [c['name'] for c in coco['categories']] == list(DATASETS['dior'].classes)
        assert [a['id'] for a in coco['annotations']] == [
            i + 1 for i in range(len(coco['annotations']))
        ]
        for image in coco['images']:
            stem = Path(image['file_name']).stem
            root, _ = read_objects(src / f'Annotations/Horizontal Bounding Boxes/{stem}.xml')
            expected = []
            for element in root.iter('object'):
                x1, y1, x2, y2 = (
                    float(element.findtext(f'bndbox/{side}'))
                    for side in ('xmin', 'ymin', 'xmax', 'ymax')
                )
                label = DATASETS['dior'].classes.index(element.findtext('name').lower())
                expected.append((label, [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)))
            assert expected == [
                (a['category_id'], a['bbox'], a['area'])
                for a in coco['annotations']
                if a['image_id'] == image['id']
            ]
            where = f'JPEGImages-{split}/{stem}.jpg'
            assert (src / where).read_bytes() == (dst / where).read_bytes()


@pytest.mark.parametrize('name', ['dior_r', 'dota_v1'])
def test_mtp_reads_what_mmrotate_reads(name, detection_set):
    _, dst, _ = detection_set(name)
    config = Config.fromfile(REPO / f'configs/_base_/finetune/rotated_detection/{name}.py')
    data = config.train_dataloader.dataset
    parts = [dict(part, pipeline=[]) for part in data.get('datasets', [data])]
    for part in parts:
        part.pop('type')
        part['data_root'] = str(dst)
        if name == 'dior_r':
            theirs = DIORDataset(
                ann_file=part['image_set'],
                **{key: part[key] for key in ('data_root', 'data_prefix', 'filter_cfg')},
            )
        else:
            theirs = DOTADataset(
                metainfo=dict(classes=DATASETS[name].classes),
                **{key: part[key] for key in ('data_root', 'ann_file', 'data_prefix')},
            )
        found = BoxFilesDetection(**part)
        records = sorted(theirs, key=lambda record: record['img_id'])
        assert len(found) == len(records) > 0
        for ours, record in zip(found, records):
            assert all(ours[key] == record[key] for key in ('img_id', 'img_path'))
            assert [
                (list(each['bbox']), each['bbox_label'], each['ignore_flag'])
                for each in ours['instances']
            ] == [
                (list(each['bbox']), each['bbox_label'], each['ignore_flag'])
                for each in record['instances']
            ]


def test_dior_r_is_read_without_boxes_without_area(detection_source, tmp_path):
    src = detection_source('dior_r')
    path = src / 'Annotations/Oriented Bounding Boxes/00001.xml'
    original = [box.corners for box in read_dior_r(path)]
    text = path.read_text()
    for tag in CORNER_TAGS:  # four different corners of the first object on one line
        if tag.startswith('y'):
            text = re.sub(f'<{tag}>.*?<', f'<{tag}>9<', text, count=1)
    path.write_text(text)
    report = prepare('dior_r', src, tmp_path / 'dst')
    assert report.left_out['objects without area'] == 1
    dataset = dior_r(tmp_path / 'dst')
    assert [Path(info['img_path']).name for info in dataset] == ['00001.jpg', '00003.jpg']
    np.testing.assert_array_equal(
        [np.reshape(i['bbox'], (4, 2)) for i in dataset[0]['instances']], original[1:]
    )


def test_xview_boxes_lie_in_each_tile_that_holds_their_centre(detection_set):
    src, dst, report = detection_set('xview')
    assert report.left_out == {
        'objects of 1395.tif, which was never distributed': 1,
        'objects without a box': 1,
        'objects of the type ids 75 and 82, which have no name': 3,
    }
    assert report.made['train scenes'] + report.made['val scenes'] == 3
    features = json.loads((src / 'xView_train.geojson').read_text())['features']
    names = set()
    for split in ('train', 'val'):
        coco = json.loads((dst / f'xview_{split}_coco_format.json').read_text())
        assert {image['file_name'] for image in coco['images']} == {
            path.name for path in (dst / split / 'images').iterdir()
        }
        for image in coco['images']:
            stem, side, x, y = place(Path(image['file_name']).stem)
            pixels = cv2.imread(str(src / 'train_images' / f'{stem}.tif'))
            height, width = pixels.shape[:2]
            assert side == 416 and x in ({0} if width < 416 else {0, width - 416})
            padded = np.full((416, 416, 3), 128, np.uint8)
            part = pixels[y : y + 416, x : x + 416]
            padded[: part.shape[0], : part.shape[1]] = part
            tile = cv2.imread(str(dst / split / 'images' / image['file_name']))
            np.testing.assert_array_equal(tile, padded)
            expected = []
            for feature in features:
                p = feature['properties']
                if p['image_id'] == f'{stem}.tif' and p['bounds_imcoords'] and p['type_id'] != 75:
                    x1, y1, x2, y2 = np.clip(
                        [int(v) for v in p['bounds_imcoords'].split(',')], 0, [width, height] * 2
                    )
                    if x <= (x1 + x2) / 2 < x + 416 and y <= (y1 + y2) / 2 < y + 416:
                        x1, x2 = np.clip((x1 - x, x2 - x), 0, 416)
                        y1, y2 = np.clip((y1 - y, y2 - y), 0, 416)
                        expected.append(
                            (
                                {11: 0, 25: 11, 51: 31, 86: 55, 94: 59}[p['type_id']],
                                [x1, y1, x2 - x1, y2 - y1],
                            )
                        )
            assert expected == [
                (a['category_id'], a['bbox'])
                for a in coco['annotations']
                if a['image_id'] == image['id']
            ]
            names.add(stem)
    assert names == {'100', '107', '114'}


def test_xview_tiles_are_evenly_spaced():
    assert xview._starts(300) == xview._starts(416) == [0]
    assert xview._starts(417) == [0, 1]
    assert xview._starts(1300) == [0, 294, 589, 884]


def test_real_labels_of_fair1m(shared):
    paths = sorted((shared / 'data' / 'fair1m_labels').rglob('*.xml'))
    tally = Tally()
    names = ClassNames(DATASETS['fair1m'].classes, tally)
    total = sum(len(usable(read_fair1m(path), names, (3000, 3000), True, tally)) for path in paths)
    assert (len(paths), total, tally.counts()) == (350, 12081, {'objects without area': 22})


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
        seen |= {
            (stem, *np.round(corners + (x, y), 3).reshape(-1)) for corners, *_ in boxes_of(path)
        }
    expected = {
        (path.stem, *box.corners.reshape(-1))
        for path in (data / 'labelTxt').iterdir()
        for box in read_dota(path)
    }
    assert seen == expected and len(seen) > 50
    tally = Tally()
    names = ClassNames(DATASETS['dota_v2'].classes, tally)
    for path in (data / 'labels_without_image').iterdir():
        assert usable(read_dota(path), names, (20000, 20000), True, tally)


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
    dataset = dior_r(tmp_path / 'dst')
    assert dataset[0]['instances'][0]['bbox'] == [133, 237, 684, 237, 684, 672, 133, 672]
