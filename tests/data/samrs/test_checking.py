"""The checker finds each kind of damage, and only that."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from mtp.data import SUBSETS
from mtp.data.decoding import read_image
from mtp.data.samrs.checking import CHECKS, check_subset, find_subsets
from tests.conftest import REPO
from tests.data.small import make_subset

FACTS = SUBSETS['sota']


@pytest.fixture
def root(tmp_path):
    make_subset(tmp_path, sizes=((128, 128),) * 2)
    return make_subset(tmp_path, sizes=((128, 128),), split='valid')


def edit_json(change, split='train'):
    def spoil(root):
        path = root / FACTS.instances.format(split=split)
        coco = json.loads(path.read_text())
        change(coco)
        path.write_text(json.dumps(coco))

    return spoil


def edit_annotation(**values):
    return edit_json(lambda coco: coco['annotations'][1].update(values))


def edit_boxes(change):
    def spoil(root):
        path = root / FACTS.rotated / 'train_1.txt'
        lines = path.read_text().splitlines()
        path.write_text('\n'.join(change(lines)))

    return spoil


def mirror(lines):
    """The third object, a tall ship, with the opposite sense of rotation and lying."""
    fields = lines[4].split()
    corners = np.array(fields[:8], float).reshape(4, 2)
    centre = corners.mean(0)
    turned = (corners - centre)[:, ::-1] + centre
    return [*lines[:4], ' '.join(map(str, turned.ravel())) + ' ship 0', lines[5]]


def cut_image(root):
    path = root / FACTS.images / 'train_0.png'
    path.write_bytes(path.read_bytes()[:-30])


def shrink_image(root):
    cv2.imwrite(str(root / FACTS.images / 'train_0.png'), np.zeros((64, 128, 3), np.uint8))


def edit_semantic(change):
    def spoil(root):
        path = root / FACTS.semantic / 'train_0.png'
        Image.fromarray(change(np.array(Image.open(path)))).save(path)

    return spoil


def with_value(value):
    def change(pixels):
        pixels[0, 0] = value
        return pixels

    return change


EMPTY = dict(size=[128, 128], counts=[128 * 128])

DAMAGE = {
    'categories': (edit_json(lambda coco: coco['categories'].reverse(), 'valid'), 'valid'),
    'categories twice': (
        edit_json(lambda coco: coco['categories'].append(dict(id=3, name='Ship'))),
        "train: the categories 1 and 3 are all called 'ship'",
    ),
    'image cut off': (cut_image, 'train_0.png'),
    'image shrunk': (shrink_image, r'(64, 128)'),
    'image lost': (lambda root: (root / FACTS.images / 'train_1.png').unlink(), 'train_1.png'),
    'semantic value': (edit_semantic(with_value(3)), 'unknown values [3]'),
    'semantic size': (edit_semantic(lambda pixels: pixels[:100]), '(100, 128)'),
    'semantic in colour': (edit_semantic(lambda pixels: np.stack([pixels] * 3, 2)), '128, 3'),
    'annotation category': (edit_annotation(category_id=9), 'annotation 1: no category 9'),
    'annotation image': (
        edit_json(
            lambda coco: coco['annotations'].append(dict(coco['annotations'][0], id=50, image_id=9))
        ),
        'annotation 50: no image 9',
    ),
    'box outside': (edit_annotation(bbox=[100, 20, 40, 10]), 'annotation 1'),
    'box flat': (edit_annotation(bbox=[10, 20, 0.5, 10]), 'annotation 1'),
    'rotated class': (edit_boxes(lambda lines: [lines[2].replace('ship', 'boat')]), "'boat'"),
    'rotated lost': (lambda root: (root / FACTS.rotated / 'train_1.txt').unlink(), 'train_1.txt'),
}


def test_good_data(root):
    findings = check_subset(root, 'sota')
    assert findings.problems == {}
    assert findings.images == dict(train=2, valid=1) and findings.objects == 12


@pytest.mark.parametrize('name', DAMAGE)
def test_damage_is_found(root, name):
    spoil, text = DAMAGE[name]
    spoil(root)
    problems = check_subset(root, 'sota').problems
    kind = name.split()[0]
    assert kind in CHECKS and any(text in line for line in problems[kind]), dict(problems)


def test_the_size_of_an_image_is_that_of_training(root):
    path = root / FACTS.images / 'train_0.png'
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new('RGB', (64, 128)).save(path, exif=exif)
    assert read_image(path).shape[:2] == (64, 128)
    (problem,) = check_subset(root, 'sota').problems['image']
    assert '(64, 128), in the json (128, 128)' in problem
    edit_json(lambda coco: coco['images'][0].update(height=64))(root)
    assert 'image' not in check_subset(root, 'sota').problems


def test_masks(root):
    edit_annotation(segmentation=EMPTY)(root)
    problems = check_subset(root, 'sota').problems
    assert [line.split(', ')[1] for line in problems['mask']] == ['annotation 1: empty']
    assert 'line 4' in problems['boxes on masks'][0], 'its rotated box is left alone'
    edit_annotation(segmentation=dict(size=[9, 9], counts=[80, 1]))(root)
    assert '(9, 9)' in check_subset(root, 'sota').problems['mask'][0]


def test_labels_must_agree(root):
    edit_annotation(category_id=2)(root)
    problems = check_subset(root, 'sota').problems
    assert {kind: len(lines) for kind, lines in problems.items()} == {
        'masks on map': 1,
        'boxes on masks': 1,
        'masks in boxes': 1,
    }


def test_a_wrong_angle_is_found(root):
    edit_boxes(mirror)(root)
    problems = check_subset(root, 'sota').problems
    assert set(problems) == {'boxes on masks', 'masks in boxes'}
    (line,) = problems['boxes on masks']
    assert 'train_1.txt, line 5' in line


def test_an_image_in_both_splits(root):
    edit_json(lambda coco: coco['images'][0].update(file_name='train_1.png'), 'valid')(root)
    assert check_subset(root, 'sota').problems['split'] == ['train_1.png']


def test_crowds_need_no_rotated_box(root):
    edit_annotation(iscrowd=1)(root)
    edit_boxes(lambda lines: lines)(root)
    path = root / FACTS.rotated / 'train_0.txt'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join(line for i, line in enumerate(lines) if i != 3))
    assert check_subset(root, 'sota').problems == {}


def test_layouts_are_found(root, tmp_path_factory):
    assert find_subsets(root) == {'sota': root}
    parent = tmp_path_factory.mktemp('samrs')
    for subset in ('sior', 'fast'):
        make_subset(parent / subset.upper(), subset)
    assert find_subsets(parent) == {'sior': parent / 'SIOR', 'fast': parent / 'FAST'}
    with pytest.raises(FileNotFoundError, match='samrs-to-coco'):
        find_subsets(parent / 'SIOR' / 'Annotations')


def test_tool(root):
    command = [sys.executable, 'tools/data/check_dataset.py', root]
    assert subprocess.run(command, cwd=REPO, capture_output=True).returncode == 0
    cut_image(root)
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 1
    assert 'train_0.png' in result.stdout
