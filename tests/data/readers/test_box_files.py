"""Images with a label file each: what is read, left out and counted, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mtp.data import BoxFilesDetection
from mtp.data.datasets import DATASETS
from mtp.data.readers.boxes import DOTATiles

CLASSES = 'plane', 'car'
BOX = '10 10 60 10 60 40 10 40'


def make(root: Path, labels: dict[str, str | None], suffix: str = '.png') -> Path:
    """Images of 64 x 96 pixels, by their stems, with the text of their labels, if any."""
    for folder in ('images', 'labels'):
        (root / folder).mkdir(exist_ok=True)
    for stem, text in labels.items():
        image = root / 'images' / f'{stem}{suffix}'
        cv2.imwrite(str(image), np.zeros((64, 96, 3), np.uint8))
        if text is not None:
            (root / 'labels' / f'{stem}.txt').write_text(text)
    return root


def read(root: Path, format: str = 'dota', **kwargs: object) -> BoxFilesDetection:
    arguments = dict(
        classes=CLASSES,
        data_root=str(root),
        ann_file='labels',
        data_prefix=dict(img='of a json', img_path='images'),
        filter_cfg=dict(filter_empty_gt=True),
    )
    return BoxFilesDetection(format, **{**arguments, **kwargs})


def test_objects_are_counted_and_so_is_what_is_left_out(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            'b.1 x': f'gsd:1\n{BOX} Car 1\n70 70 80 70 90 70 99 70 car 0\n',
            'a': f'{BOX} plane\n96 0 99 0 99 9 96 9 car\n-9 9 5 9 5 20 -9 20 car',
            'empty': '',
        },
    )
    (tmp_path / 'labels' / 'other.txt').write_text('')
    (tmp_path / 'images' / 'a.pgw').write_text('1.0')  # a world file
    found = read(tmp_path)
    assert [found.get_data_info(i)['img_id'] for i in range(len(found))] == ['a', 'b.1 x']
    assert [each['bbox_label'] for each in found.get_data_info(0)['instances']] == [0, 1]
    assert found.get_data_info(1)['instances'] == [
        dict(bbox=[10, 10, 60, 10, 60, 40, 10, 40], bbox_label=1, ignore_flag=0)
    ], 'an object that is difficult is an object'
    labels = tmp_path / 'labels'
    assert found.tally.left_out == {
        'files that are no images': [f'{tmp_path}/images/a.pgw'],
        'label files without an image': [f'{labels}/other.txt'],
        'objects without area': [f'{labels}/b.1 x.txt, line 3'],
        'objects outside of their image': [f'{labels}/a.txt, line 2'],
        'images without objects': [f'{tmp_path}/images/empty.png'],
    }
    assert (found.tally.images, found.tally.objects) == (2, 3)
    assert found.tally.of_class == dict(plane=1, car=2)
    assert found.tally.notes == ["'Car' is read as the class 'car'"]
    assert len(read(tmp_path, test_mode=True)) == 3


def test_yolo_names_the_classes_and_takes_the_image_as_it_is_shown(tmp_path: Path) -> None:
    make(tmp_path, {'a': '0 0.5 0.5 0.25 0.5\n', 'b': None}, '.JPG')
    path = tmp_path / 'images' / 'a.JPG'
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # by 90 degrees: it is shown with 64 x 96
        image.save(path, exif=exif)
    (tmp_path / 'labels' / 'classes.txt').write_text('car\nplane\n')
    found = read(tmp_path, 'yolo', test_mode=True)
    record = found.get_data_info(0)
    assert (record['height'], record['width']) == (96, 64)
    assert record['instances'] == [
        dict(bbox=[24, 24, 40, 72], area=16 * 48, bbox_label=1, ignore_flag=0)
    ]
    assert found.get_data_info(1)['instances'] == []
    assert found.tally.notes[1] == '1 of 2 images have no label file, and so no objects: b.JPG'
    assert read(tmp_path, 'yolo', classes=None).metainfo['classes'] == ('car', 'plane')


def test_a_list_chooses_and_orders_the_images(tmp_path: Path) -> None:
    make(tmp_path, {stem: f'{BOX} car' for stem in ('a', 'b', 'c')})
    (tmp_path / 'train.txt').write_text('c\n\na.png\n')
    found = read(tmp_path, image_set='train.txt')
    assert [found.get_data_info(i)['img_id'] for i in range(2)] == ['c', 'a']
    assert not found.tally.left_out
    for text, said in (('c\nd\n', "line 2: no image 'd'"), ('c\nc', 'line 2: .* listed twice')):
        (tmp_path / 'train.txt').write_text(text)
        with pytest.raises(ValueError, match=rf'train\.txt, {said}'):
            read(tmp_path, image_set='train.txt')


@pytest.mark.parametrize(
    ('labels', 'changes', 'said'),
    [
        ({'a': ''}, {}, r'no image is left of those in .*/images .*looked for .*plane, car in'),
        ({}, {}, r'no images \(\.png.*/images: correct'),
        ({'a': None}, {}, r'no \*\.txt in .*/labels'),
        ({'a': '', 'b': None}, {}, r'1 of 2 images have no label file .*/labels: b\.png'),
        ({'a': f'{BOX} bus 0'}, {}, r"a\.txt, line 1: 'bus' is no class"),
        ({'a': f'{BOX} car'}, dict(classes='car'), r"write classes=\('car',\)"),
        ({'a': f'{BOX} car'}, dict(classes=None), 'give `classes`, or `dataset`'),
        ({'a': f'{BOX} car'}, dict(format='dotta'), r'no format .*mean dota'),
        ({'a': '0 0 0 1 1'}, dict(format='yolo', classes=None), r'add data\.yaml or'),
        ({'a': f'{BOX} car'}, dict(ann_file='none'), 'no folder .*none of labels'),
    ],
)
def test_what_has_no_meaning_is_named(
    labels: dict, changes: dict, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        read(make(tmp_path, labels), **changes)


def test_two_images_of_one_name_are_named(tmp_path: Path) -> None:
    make(tmp_path, {'a': f'{BOX} car'})
    make(tmp_path, {'a': None}, '.jpg')
    with pytest.raises(ValueError, match=r'images/a\.png: a\.jpg has the same name'):
        read(tmp_path)


def test_tiles_of_a_known_data_set(tmp_path: Path) -> None:
    make(tmp_path, {'b': f'{BOX} ship 1\n{BOX} helicopter 2\n', 'a': ''})
    found = DOTATiles(
        'dota_v1', data_root=str(tmp_path), ann_file='labels', data_prefix=dict(img_path='images')
    )
    assert [found.get_data_info(i)['img_id'] for i in range(2)] == ['a', 'b']
    classes = DATASETS['dota_v1'].classes
    assert [classes[label] for label in found.get_cat_ids(1)] == ['ship', 'helicopter']
    with pytest.raises(FileNotFoundError, match='mtp data prepare'):
        DOTATiles('dota_v1', data_root=str(tmp_path), data_prefix=dict(img_path='labels'))
