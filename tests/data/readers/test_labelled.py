"""Class lists, class folders and class maps: read, or refused with the file and the fault."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mtp.data import LoadClassMap, SceneDataset
from mtp.data.datasets import DATASETS

CLASSES = ('beach', 'forest', 'river')


def scenes(root, **options):
    return SceneDataset('eurosat', data_root=str(root), **options)


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    facts = replace(DATASETS['eurosat'], classes=CLASSES)
    monkeypatch.setitem(DATASETS, 'eurosat', facts)


def test_list(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text('a b.jpg 2\nc.jpg 0\n')
    found = scenes(tmp_path, data_prefix='all_img', ann_file='list.txt')
    assert [found.get_data_info(i)['gt_label'] for i in range(2)] == [2, 0]
    assert found.get_data_info(0)['img_path'] == str(tmp_path / 'all_img' / 'a b.jpg')
    for line in ('c.jpg 3', 'c.jpg river', 'c.jpg', 'c.jpg -1', '', f'c.jpg {"0" * 5000}'):
        path.write_text(f'a.jpg 2\n{line}\n')
        with pytest.raises(ValueError, match=r'list.txt, line 2: .* label of 0 to 2'):
            scenes(tmp_path, data_prefix='all_img', ann_file='list.txt')
    path.write_text('a.jpg 2\fb.jpg 1\n')  # of two lines, as each line is checked
    found = scenes(tmp_path, data_prefix='all_img', ann_file='list.txt')
    assert [found.get_data_info(i)['gt_label'] for i in range(2)] == [2, 1]
    path.write_text('')
    with pytest.raises(ValueError, match=r'list.txt lists no image'):
        scenes(tmp_path, data_prefix='all_img', ann_file='list.txt')
    with pytest.raises(FileNotFoundError, match=r'no list of images at .*other.txt'):
        scenes(tmp_path, data_prefix='all_img', ann_file='other.txt')


def test_folders(tmp_path):
    for name in CLASSES:
        (tmp_path / 'train' / name).mkdir(parents=True)
        (tmp_path / 'train' / name / '1.jpg').touch()
    found = scenes(tmp_path, data_prefix='train')
    assert [found.get_data_info(i)['gt_label'] for i in range(3)] == [0, 1, 2]
    (tmp_path / 'train' / 'river').rename(tmp_path / 'train' / 'rivers')
    with pytest.raises(ValueError, match='missing are river; no classes are rivers'):
        scenes(tmp_path, data_prefix='train')
    with pytest.raises(FileNotFoundError, match=r'no folder .*val'):
        scenes(tmp_path, data_prefix='val')


def test_a_class_has_one_label_in_all_splits(tmp_path):
    """Folders that are hidden, empty, or in one split only."""
    for name in (
        'train/beach/1.JPG train/farm/2.tif train/farm/Thumbs.db train/.ipynb_checkpoints/3.jpg '
        'train/__MACOSX/beach/4.jpg train/readme.txt val/Farm/5.jpg val/farm/._5.jpg '
        'val/port/6/6.jpg other/notes/7.txt'
    ).split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'val' / 'beach').mkdir()
    train, val = (SceneDataset(data_root=str(tmp_path), data_prefix=n) for n in ('train', 'val'))
    assert train.CLASSES == val.CLASSES == ('Farm', 'beach', 'port')
    assert [r['gt_label'] for r in train.load_data_list()] == [1, 0]
    assert [r['gt_label'] for r in val.load_data_list()] == [0, 2]
    assert 'images 2, left out 4' in train.tally.summary() and val.tally.of_class['port'] == 1
    notes = ' '.join(train.tally.notes + val.tally.notes)
    for text in ("'farm' is read as the class 'Farm'", "'port' is missing", "'beach' is empty"):
        assert text in notes
    with pytest.raises(ValueError, match='no classes are port'):
        SceneDataset(classes=('beach', 'farm'), data_root=str(tmp_path), data_prefix='val')
    with pytest.raises(ValueError, match='set data_root to the folder above the splits'):
        SceneDataset(data_root=str(tmp_path / 'train'))
    with pytest.raises(ValueError, match=r'no images in the folders of .*other: looked for \*.png'):
        SceneDataset(data_root=str(tmp_path), data_prefix='other')


def class_map(tmp_path, values, reduce_zero_label=True, shape=(4, 6)):
    label = np.resize(np.array(values, np.uint8), (4, 6))
    cv2.imwrite(str(tmp_path / 'label.png'), label)
    return LoadClassMap(num_classes=3).transform(
        dict(
            img_path='image.png',
            seg_map_path=str(tmp_path / 'label.png'),
            ori_shape=shape,
            seg_fields=[],
            reduce_zero_label=reduce_zero_label,
            label_map=None,
        )
    )['gt_seg_map']


def test_class_map(tmp_path):
    assert set(np.unique(class_map(tmp_path, [0, 1, 3]))) == {255, 0, 2}
    assert set(np.unique(class_map(tmp_path, [0, 2, 255], False))) == {0, 2, 255}
    with pytest.raises(ValueError, match='holds the value 4; the classes are 1 to 3'):
        class_map(tmp_path, [0, 4])
    with pytest.raises(ValueError, match='holds the value 254; the classes are 0 to 2'):
        class_map(tmp_path, [0, 254], False)
    with pytest.raises(ValueError, match=r'label.png has shape \(4, 6\), but image.png has'):
        class_map(tmp_path, [1], shape=(6, 4))
    with pytest.raises(ValueError, match='the label of image.png, is missing'):
        LoadClassMap(3).transform(dict(img_path='image.png', seg_map_path='none.png'))
