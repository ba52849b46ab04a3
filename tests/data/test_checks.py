"""The checker of prepared detection sets; test_prepare_scenes.py has the others."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from mtp.data.checks import CHECKS, check_prepared
from tests.conftest import REPO
from tests.data.prepared import make_dior, make_dior_r, make_dota

MAKE = {'dota_v1': make_dota, 'dior': make_dior, 'dior_r': make_dior_r}


@pytest.mark.parametrize(
    ('name', 'images', 'objects'),
    [
        ('dota_v1', dict(test=1, trainval=3), 12),
        ('dior', dict(trainval=3, test=1), 8),
        ('dior_r', dict(train=2, val=1, test=1), 8),
    ],
)
def test_good_data(name, images, objects, tmp_path):
    findings = check_prepared(MAKE[name](tmp_path), name)
    assert findings.problems == {}
    assert findings.images == images and findings.objects == objects


def edit(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new))


def add(line):
    return lambda path: path.write_text(path.read_text() + line)


def edit_json(change):
    def spoil(path):
        coco = json.loads(path.read_text())
        change(coco)
        path.write_text(json.dumps(coco))

    return spoil


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def shrink(path):
    Image.open(path).crop((0, 0, 60, 64)).save(path)


def delete(path):
    path.unlink()


TXT, JSON = 'trainval/annfiles/trainval_1.txt', 'DIOR_trainval_coco.json'
XML = 'Annotations/Oriented Bounding Boxes/trainval_1.xml'
DAMAGE = [
    ('dota_v1', 'trainval/images/trainval_1.png', cut, 'image', 'trainval_1.png'),
    ('dota_v1', 'test/images/test_0.png', cut, 'image', 'test_0.png'),
    ('dota_v1', 'trainval/images/trainval_1.png', shrink, 'box', 'trainval_1.txt, line 2: '),
    ('dota_v1', 'trainval/images/trainval_1.png', delete, 'partner', 'trainval_1.txt: no image'),
    ('dota_v1', TXT, delete, 'partner', 'trainval_1.txt: missing'),
    ('dota_v1', TXT, edit('harbor', 'pier'), 'class', "line 4: 'pier' is no class"),
    ('dota_v1', TXT, edit('ship', ''), 'class', 'trainval_1.txt, line 1'),
    (
        'dota_v1',
        TXT,
        add('7 7 8 8 9 9 10 10 ship 0\n'),
        'box',
        'line 5: left out',
    ),
    ('dota_v1', TXT, lambda path: path.write_text('1 2 3'), 'annotation', 'line 1'),
    ('dior_r', XML, edit('HARBOR', 'PIER'), 'class', "'PIER' is no class"),
    ('dior_r', XML, cut, 'annotation', 'trainval_1.xml is no whole xml'),
    ('dior_r', 'JPEGImages-trainval/trainval_1.jpg', delete, 'image', 'trainval_1.jpg is missing'),
    ('dior_r', 'ImageSets/Main/val.txt', delete, 'split', 'val.txt'),
    ('dior', JSON, cut, 'annotation', JSON),
    ('dior', JSON, edit('"dam"', '"lake"'), 'class', 'not the 20 classes'),
    (
        'dior',
        JSON,
        edit_json(lambda coco: coco['annotations'][1].update(category_id=20)),
        'class',
        'annotation 1: no category 20',
    ),
    (
        'dior',
        JSON,
        edit_json(lambda coco: coco['annotations'][1].update(image_id=7)),
        'annotation',
        'annotation 1: no image 7',
    ),
    (
        'dior',
        JSON,
        edit_json(lambda coco: coco['annotations'][1].update(bbox=[90, 9, 60, 9])),
        'box',
        'annotation 1: (x, y, w, h) = [90, 9, 60, 9]',
    ),
    ('dior', 'JPEGImages-test/test_0.png', shrink, 'size', '(64, 60), in the json (128, 128)'),
]


@pytest.mark.parametrize(('name', 'file', 'damage', 'kind', 'text'), DAMAGE)
def test_damage_is_found(name, file, damage, kind, text, tmp_path):
    damage(MAKE[name](tmp_path) / file)
    problems = check_prepared(tmp_path, name).problems
    assert kind in CHECKS and any(text in line for line in problems[kind]), problems


def test_tool(tmp_path):
    make_dota(tmp_path)
    (tmp_path / TXT).unlink()
    command = [sys.executable, 'tools/data/check_dataset.py', tmp_path, '--dataset', 'dota_v1']
    result = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, env={**os.environ, 'COLUMNS': '200'}
    )
    assert result.returncode == 1
    assert '3 trainval images' in result.stdout and '8 objects' in result.stdout
    assert 'trainval_1.txt: missing' in result.stdout
