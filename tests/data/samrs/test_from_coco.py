"""COCO annotations with masks -> the layout of SAMRS."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from mmrotate.structures.bbox import rbox2qbox
from pycocotools import mask as coco_mask

from mtp.data import SAMRSDataset
from mtp.data.samrs.from_coco import coco_to_samrs

SHAPE = (40, 60)


@pytest.fixture
def coco(tmp_path):
    """An image with polygon, RLE, uncompressed RLE and a crowd; one without objects."""
    (tmp_path / 'images').mkdir()
    for name in ('one.jpg', 'two.png'):
        cv2.imwrite(str(tmp_path / 'images' / name), np.full((*SHAPE, 3), 90, np.uint8))
    small = np.zeros(SHAPE, np.uint8)
    small[10:15, 35:38] = 1
    rle = coco_mask.encode(np.asfortranarray(small))
    # by column: 30 empty ones; in the next ten 2 pixels, an object of 30, 8 pixels; the rest
    runs = [30 * 40 + 2] + [30, 8 + 2] * 9 + [30, 8 + 20 * 40]
    masks = [
        (7, 0, [[2, 2, 22, 2, 22, 8, 2, 8]]),
        (3, 0, dict(size=list(SHAPE), counts=runs)),
        (7, 0, dict(rle, counts=rle['counts'].decode())),
        (3, 1, dict(size=list(SHAPE), counts=[40 * 50, 40 * 10])),
    ]
    content = dict(
        images=[
            dict(id=5, file_name='one.jpg', height=40, width=60),
            dict(id=6, file_name='two.png', height=40, width=60),
        ],
        annotations=[
            dict(
                id=i,
                image_id=5,
                category_id=category,
                iscrowd=crowd,
                segmentation=mask,
                bbox=[0, 0, 1, 1],
                area=1,
            )
            for i, (category, crowd, mask) in enumerate(masks)
        ],
        categories=[dict(id=7, name='small car'), dict(id=3, name='harbor')],
    )
    write(tmp_path, content)
    return tmp_path


def write(folder, content):
    (folder / 'coco.json').write_text(json.dumps(content))


def convert(folder, **arguments):
    return coco_to_samrs(folder / 'coco.json', folder / 'images', folder / 'out', **arguments)


def test_coco_to_samrs(coco):
    report = convert(coco, valid={'two.png'})
    assert report.images == dict(train=1, valid=1) and not report.bad
    assert report.objects['train'] == {'harbor': 2, 'small-car': 2}
    dataset = SAMRSDataset('sota', coco / 'out', classes=('harbor', 'small-car'))
    info = dataset.get_data_info(0)
    assert info['img_path'].endswith('images/one.jpg') and os.path.isfile(info['img_path'])
    boxes = [[2, 2, 22, 8], [30, 2, 40, 32], [35, 10, 38, 15], [50, 0, 60, 40]]
    labels = info['labels']
    assert labels.boxes.tolist() == boxes
    assert labels.labels.tolist() == [1, 0, 1, 0]
    assert labels.crowd.tolist() == [False, False, False, True]

    semantic = cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED)
    expected = np.full(SHAPE, 255, np.uint8)
    for (x1, y1, x2, y2), label in zip(boxes, (1, 0, 1, 0)):
        expected[y1:y2, x1:x2] = label  # the third, small one lies on the second
    np.testing.assert_array_equal(semantic, expected)

    assert labels.rotated_labels.tolist() == [1, 0, 1]
    for corners, (x1, y1, x2, y2) in zip(rbox2qbox(torch.from_numpy(labels.rotated)), boxes):
        assert {tuple(corner) for corner in corners.round().reshape(4, 2).tolist()} == {
            (x1, y1),
            (x2, y1),
            (x2, y2),
            (x1, y2),
        }

    empty = SAMRSDataset('sota', coco / 'out', 'valid', classes=('harbor', 'small-car'))
    info = empty.get_data_info(0)
    assert len(info['labels'].boxes) == len(info['labels'].rotated) == 0
    assert (cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED) == 255).all()


def test_what_cannot_be_used_is_named(coco):
    content = json.loads((coco / 'coco.json').read_text())
    good = content['annotations'][0]
    content['annotations'] += [
        dict(good, id=10, category_id=99),
        dict(good, id=11, segmentation=[]),
        dict(good, id=12, segmentation=[[1, 1, 1, 1, 1, 1]]),
        dict(good, id=13, image_id=77),
        dict(good, id=14, segmentation=dict(size=[9, 9], counts=[80, 1])),
    ]
    content['images'] += [
        dict(id=8, file_name='lost.png', height=40, width=60),
        dict(id=9, file_name='large.png', height=80, width=60),
    ]
    cv2.imwrite(str(coco / 'images' / 'large.png'), np.zeros((*SHAPE, 3), np.uint8))
    write(coco, content)
    report = convert(coco, val_fraction=0)
    assert report.images == dict(train=2, valid=0)
    assert sum(report.objects['train'].values()) == 4
    for number, what in (
        (10, 'unknown category 99'),
        (11, 'no mask'),
        (12, 'empty'),
        (13, 'no image 77'),
        (14, r'size (9, 9)'),
    ):
        assert any(f'annotation {number}: ' in line and what in line for line in report.bad), what
    assert any('lost.png: no such image' in line for line in report.bad)
    assert any('large.png: (height, width) is (40, 60)' in line for line in report.bad)
    assert len(report.bad) == 7


def test_unusable_coco(coco):
    with pytest.raises(ValueError, match='three.png'):
        convert(coco, valid={'three.png'})
    content = json.loads((coco / 'coco.json').read_text())
    bare = [dict(annotation, segmentation=[]) for annotation in content['annotations']]
    write(coco, dict(content, annotations=bare))
    with pytest.raises(ValueError, match='no masks'):
        convert(coco)
    write(
        coco,
        dict(
            content,
            images=[dict(content['images'][0], file_name='a/two.png'), content['images'][1]],
        ),
    )
    with pytest.raises(ValueError, match="'a/two.png' and 'two.png' have one stem"):
        convert(coco)
    write(coco, dict(content, images=[], annotations=[]))
    with pytest.raises(ValueError, match=r'coco\.json lists no images'):
        convert(coco)
    write(coco, dict(content, categories=[dict(id=i, name=str(i)) for i in range(256)]))
    with pytest.raises(ValueError, match='256 categories'):
        convert(coco)
    assert not (coco / 'out').exists()
    write(coco, content)
    convert(coco)
    with pytest.raises(FileExistsError, match='remove it'):
        convert(coco)


def test_categories_with_one_name_are_one_class(coco):
    content = json.loads((coco / 'coco.json').read_text())
    content['categories'] = [
        dict(id=0, name='ports', supercategory='none'),
        dict(id=3, name='Small car', supercategory='ports'),
        dict(id=7, name='small car', supercategory='ports'),
        dict(id=8, name='harbor', supercategory='ports'),
    ]
    content['annotations'].append(
        dict(content['annotations'][0], id=10, category_id=8, segmentation=[[9, 9, 12, 12]])
    )
    content['annotations'].append(dict(content['annotations'][0], id=11, category_id=8))
    write(coco, content)
    report = convert(coco, val_fraction=0)
    assert report.objects['train'] == {'Small-car': 4, 'harbor': 1}
    assert [note.partition(',')[0] for note in report.notes] == ['the category 0', 'the category 7']
    (problem,) = report.bad
    assert 'annotation 10: the mask cannot be read: its polygon 0 has 2 points' in problem


@pytest.mark.slow
def test_real_coco_data(shared, tmp_path):
    source = shared / 'data' / 'nwpu_vhr10'
    content = json.loads((source / 'instances_train.json').read_text())
    content['images'] = content['images'][:20]
    ids = {image['id'] for image in content['images']}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
    write(tmp_path, content)
    report = coco_to_samrs(tmp_path / 'coco.json', source / 'images', tmp_path / 'out')
    assert not report.bad and report.images == dict(train=16, valid=4)
    assert sum(sum(c.values()) for c in report.objects.values()) == len(content['annotations'])
    classes = tuple(report.objects['train'])
    dataset = SAMRSDataset('sota', tmp_path / 'out', classes=classes)
    assert len(dataset.get_data_info(0)['labels'].rotated) > 0
