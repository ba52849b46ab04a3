"""SAMRS pickles -> COCO json."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mtp.data import SUBSETS
from mtp.data.run_lengths import decode_mask
from mtp.data.samrs import to_coco as conversion
from mtp.data.samrs.to_coco import read_pickle, rectangle, samrs_to_coco
from tests.conftest import REPO

CLASSES = ('plane', 'ship', 'harbor')
FACTS = SUBSETS['sota']
SHAPE = (40, 60)


def block(x, y, w, h):
    mask = np.zeros(SHAPE, np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask))


def pickled(**instance):
    return lambda path: path.write_bytes(pickle.dumps([instance]))


@pytest.fixture
def samrs(tmp_path):
    """Ten images of one to three objects, not yet divided."""
    root = tmp_path / 'SOTA'
    for folder in (FACTS.images, FACTS.masks):
        (root / folder).mkdir(parents=True)
    for number in range(10):
        instances = [
            dict(label=(number + i) % 3, mask=encode(block(5 + i, 8, 20, 10 + number)))
            for i in range(number % 3 + 1)
        ]
        cv2.imwrite(str(root / FACTS.images / f'{number}.png'), np.zeros((*SHAPE, 3), np.uint8))
        (root / FACTS.masks / f'{number}.pkl').write_bytes(pickle.dumps(instances))
    return root


def read_json(root, split):
    return json.loads((root / FACTS.instances.format(split=split)).read_text())


def test_pickles_to_json(samrs):
    report = samrs_to_coco(samrs, 'sota', CLASSES, val_fraction=0.3)
    assert report.images == dict(train=7, valid=3) and not report.bad
    for split in ('train', 'valid'):
        coco = read_json(samrs, split)
        stems = (samrs / f'{split}.txt').read_text().split()
        assert coco['categories'] == [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
        assert [image['id'] for image in coco['images']] == list(range(len(stems)))
        assert [a['id'] for a in coco['annotations']] == list(range(len(coco['annotations'])))
        for image, stem in zip(coco['images'], stems, strict=True):
            assert image == dict(
                id=image['id'],
                file_name=f'{stem}.png',
                segm_file=f'{stem}.png',
                height=40,
                width=60,
            )
            found = [a for a in coco['annotations'] if a['image_id'] == image['id']]
            for i, (annotation, instance) in enumerate(
                zip(found, read_pickle(samrs / FACTS.masks / f'{stem}.pkl'), strict=True)
            ):
                height = 10 + int(stem)
                assert annotation['bbox'] == [5 + i, 8, 20, height]
                assert annotation['area'] == 20 * height
                assert annotation['category_id'] == instance['label']
                assert annotation['iscrowd'] == 0
                np.testing.assert_array_equal(
                    decode_mask(annotation['segmentation'], *SHAPE),
                    coco_mask.decode(instance['mask']),
                )


def test_lists_are_respected(samrs):
    (samrs / 'train.txt').write_text('3\n1\n')
    with pytest.raises(FileNotFoundError, match='other split'):
        samrs_to_coco(samrs, 'sota', CLASSES)
    (samrs / 'valid.txt').write_text('7\n')
    samrs_to_coco(samrs, 'sota', CLASSES)
    assert [i['file_name'] for i in read_json(samrs, 'train')['images']] == ['3.png', '1.png']
    assert [i['file_name'] for i in read_json(samrs, 'valid')['images']] == ['7.png']


def test_division_goes_by_the_seed(samrs):
    divided = []
    for seed in (0, 0, 1):
        for path in (*samrs.glob('*.txt'), *samrs.rglob('*.json')):
            path.unlink()
        samrs_to_coco(samrs, 'sota', CLASSES, val_fraction=0.5, seed=seed)
        divided.append((samrs / 'valid.txt').read_text().split())
    assert divided[0] == divided[1] != divided[2]
    assert len(divided[0]) == 5
    with pytest.raises(ValueError, match='between 0 and 1'):
        conversion.divide(range(5), 20, seed=0)


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), 'expected|exhausted'),
        (lambda path: path.unlink(), 'FileNotFoundError'),
        (pickled(label=3, mask=encode(block(1, 1, 5, 5))), 'label 3, but there are 3 classes'),
        (pickled(label=0, mask=encode(np.eye(9, dtype=np.uint8))), r'size \(9, 9\)'),
        (pickled(mask=encode(block(1, 1, 5, 5))), "KeyError: 'label'"),
    ],
)
def test_bad_files_are_named_and_mended_later(samrs, spoil, message):
    path = samrs / FACTS.masks / '4.pkl'
    good = path.read_bytes()
    spoil(path)
    for split, stems in (('train', '0123456'), ('valid', '789')):
        (samrs / f'{split}.txt').write_text('\n'.join(stems))
    report = samrs_to_coco(samrs, 'sota', CLASSES)
    (line,) = report.bad
    assert str(path) in line
    assert re.search(message, line)
    assert report.images == dict(train=6, valid=3)
    assert '4.png' not in [image['file_name'] for image in read_json(samrs, 'train')['images']]

    path.write_bytes(good)
    report = samrs_to_coco(samrs, 'sota', CLASSES)
    assert report.images == dict(train=7) and report.skipped == ['valid'] and not report.bad
    assert read_json(samrs, 'train')['images'][4]['file_name'] == '4.png', 'list order'
    assert samrs_to_coco(samrs, 'sota', CLASSES).skipped == ['train', 'valid']


def test_an_image_must_exist(samrs):
    (samrs / FACTS.images / '2.png').unlink()
    (line,) = samrs_to_coco(samrs, 'sota', CLASSES).bad
    assert '2.pkl' in line and 'no image of that name' in line


def test_it_goes_on_after_an_interruption(samrs, monkeypatch):
    whole = samrs.parent / 'whole'
    shutil.copytree(samrs, whole)
    samrs_to_coco(whole, 'sota', CLASSES)
    read = []

    def interrupt(path):
        read.append(path.stem)
        if len(read) == 5:
            raise KeyboardInterrupt
        return read_pickle(path)

    monkeypatch.setattr(conversion, 'read_pickle', interrupt)
    with pytest.raises(KeyboardInterrupt):
        samrs_to_coco(samrs, 'sota', CLASSES)
    assert not list(samrs.rglob('*.json'))
    (journal,) = samrs.rglob('*.journal')
    with open(journal, 'a') as file:
        file.write('\n["half", [{"file_na')  # what a power cut leaves
    samrs_to_coco(samrs, 'sota', CLASSES)
    assert len(read) == 11, 'only the interrupted image was read twice'
    assert read_json(samrs, 'train') == read_json(whole, 'train')
    assert not list(samrs.rglob('*.journal'))


class Malicious:
    def __reduce__(self):
        return os.system, ('exit',)


class Evaluated:
    def __reduce__(self):
        return eval, ('1 + 1',)


@pytest.mark.parametrize('thing', [Malicious(), Evaluated()])
def test_pickles_with_code_are_refused(samrs, thing):
    (samrs / FACTS.masks / '4.pkl').write_bytes(pickle.dumps([dict(label=thing)]))
    with pytest.raises(ValueError, match='any code'):
        read_pickle(samrs / FACTS.masks / '4.pkl')
    (line,) = samrs_to_coco(samrs, 'sota', CLASSES).bad
    assert '4.pkl' in line


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_plain_data_is_read(tmp_path, protocol):
    instances = [
        dict(
            label=np.int64(1),
            mask=dict(size=[3, 4], counts=b'\xff;0'),
            extra=[np.arange(6.0).reshape(2, 3), np.array(['a', None]), b'', 'text'],
        )
    ]
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(instances, protocol))
    assert repr(read_pickle(tmp_path / 'a.pkl')) == repr(instances)


@pytest.mark.slow
def test_processes_give_the_same(samrs, monkeypatch):
    samrs_to_coco(samrs, 'sota', CLASSES)
    expected = read_json(samrs, 'train')
    (samrs / FACTS.instances.format(split='train')).unlink()
    monkeypatch.setattr(conversion, 'MIN_PARALLEL', 1)
    samrs_to_coco(samrs, 'sota', CLASSES)
    assert read_json(samrs, 'train') == expected


def test_tool(samrs):
    """A run of the program: exit code 1 and the name of the file that could not be used."""
    (samrs / FACTS.masks / '4.pkl').write_bytes(b'no pickle')
    result = subprocess.run(
        [sys.executable, 'tools/data/samrs_to_coco.py', samrs.parent, '--subset', 'sota'],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert '1 files could not be used' in result.stderr and '4.pkl' in result.stderr
    assert len(read_json(samrs, 'train')['categories']) == 18


def test_rectangle_of_a_turned_mask():
    angle = np.deg2rad(30)
    y, x = np.mgrid[:200, :200] + 0.5
    along = (x - 100) * np.cos(angle) + (y - 90) * np.sin(angle)
    across = (y - 90) * np.cos(angle) - (x - 100) * np.sin(angle)
    mask = (np.abs(along) <= 60) & (np.abs(across) <= 20)
    (cx, cy), size, _ = cv2.minAreaRect(rectangle(mask.astype(np.uint8)))
    assert (cx, cy) == pytest.approx((100, 90), abs=0.3)
    assert sorted(size) == pytest.approx([40, 120], abs=1)
