"""Pairs of images: found by name, moved together with their change map, refused when wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.config import Config

from mtp.data import ChangeDataset, DistortPair, LoadChange, LoadPair, SwapDates

SIAMESE = (
    Path(__file__).parents[3]
    / 'configs'
    / '_base_'
    / 'finetune'
    / 'change_detection'
    / 'siamese_unet.py'
)


def write(root, name, before, after, label):
    for folder, image in (('A', before), ('B', after), ('label', label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / folder / name), image)


@pytest.fixture
def root(tmp_path) -> Path:
    """One pair whose red channel is 255 exactly where it changed, on both dates."""
    rng = np.random.default_rng(0)
    before = rng.integers(0, 100, (300, 280, 3), dtype=np.uint8)
    label = np.zeros((300, 280), np.uint8)
    label[40:200, 60:150] = 255
    before[..., 2] = label
    after = before.copy()
    after[..., 0] += 100
    write(tmp_path / 'train', 'a.png', before, after, label)
    return tmp_path


def test_pairs_and_labels_move_together(root):
    pipeline = Config.fromfile(SIAMESE).train_pipeline
    assert pipeline.pop(-2)['type'] is DistortPair
    data = ChangeDataset(str(root), 'train', pipeline=pipeline)
    swapped, filled = 0, 0
    np.random.seed(0)
    for _ in range(20):
        item = data[0]
        image = item['inputs'].numpy().astype(int)
        label = item['data_samples'].gt_sem_seg.data[0].numpy()
        assert image.shape == (6, 256, 256) and label.shape == (256, 256)
        inside = label != 255
        marked = image[[2, 5]] > 127
        # a rotation interpolates the image, and takes the nearest label
        assert (marked[:, inside] == (label[inside] == 1)).mean() > 0.99
        assert not image[:, ~inside & (image.sum(0) == 0)].any()
        difference = image[3, inside].mean() - image[0, inside].mean()
        assert 80 < abs(difference) < 101
        swapped += difference < 0
        filled += not inside.all()
    assert 4 < swapped < 16
    assert 4 < filled < 16  # rotations


def test_each_date_is_distorted_by_itself():
    image = np.full((8, 8, 6), 120, np.uint8)
    np.random.seed(1)
    results = [
        DistortPair(brightness_delta=40).transform(dict(img=image.copy()))['img'] for _ in range(10)
    ]
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert sum((r[..., :3] != r[..., 3:]).any() for r in results) >= 5


def test_swap():
    image = np.arange(6, dtype=np.uint8).reshape(1, 1, 6)
    assert SwapDates().transform(dict(img=image))['img'].ravel().tolist() == [3, 4, 5, 0, 1, 2]


def test_suffixes_may_differ(root):
    """Files beside the images are left out; a JPEG change map is cut at 128."""
    grey = np.repeat(np.uint8([[0, 110, 150, 255]]), 16, 0).repeat(4, 1)
    write(root / 'val', 'b.jpg', *[np.zeros((16, 16, 3), np.uint8)] * 2, grey)
    (root / 'val' / 'A' / 'b.jpg').rename(root / 'val' / 'A' / 'b.TIF')
    for name in ('b.tfw', 'Thumbs.db', '._b.png'):
        (root / 'val' / 'A' / name).touch()
    data = ChangeDataset(str(root), 'val', pipeline=[LoadPair(), LoadChange()])
    assert data[0]['gt_seg_map'][0, ::4].tolist() == [0, 0, 1, 1]
    assert data.tally.summary() == 'images 1, left out 3: files that are no images'
    assert any('cut at 128' in text for text in data.tally.notes)


def test_prepared_maps_are_cut_at_128(root):
    data = ChangeDataset(str(root), 'train', 'levir', pipeline=[LoadPair(), LoadChange()])
    path = data.get_data_info(0)['seg_map_path']
    cv2.imwrite(path, np.resize(np.uint8([0, 127, 128, 255]), (300, 280)))
    assert data[0]['gt_seg_map'][0, :4].tolist() == [0, 0, 1, 1]
    cv2.imwrite(path, np.resize(np.uint8([0, 2]), (300, 280)))
    with pytest.raises(ValueError, match=r'a.png holds values up to 2; .* set dataset=None'):
        data[0]


def test_faults_are_named(root):
    load = Compose([LoadPair(), LoadChange()])
    record = ChangeDataset(str(root), 'train').get_data_info(0)
    cv2.imwrite(record['seg_map_path'], np.resize(np.uint8([0, 7]), (300, 280)))
    with pytest.raises(ValueError, match=r'a.png holds the value 7, which no label map held'):
        load(dict(record))
    with pytest.raises(
        ValueError, match=r"0 in 1 files .*, 7 in .*={0: 'unchanged', 7: 'changed'}"
    ):
        ChangeDataset(str(root), 'train')
    cv2.imwrite(record['seg_map_path'], np.zeros((30, 20), np.uint8))
    with pytest.raises(ValueError, match=r'shape \(30, 20\), but its image has \(300, 280\)'):
        load(dict(record))
    cv2.imwrite(record['img_path2'], np.zeros((30, 20, 3), np.uint8))
    with pytest.raises(ValueError, match='a pair has one size'):
        load(dict(record))
    Path(record['img_path2']).rename(root / 'train' / 'B' / 'z.png')
    with pytest.raises(ValueError, match=r'A lacks 1 of 2 images: z\.'):
        ChangeDataset(str(root), 'train')
    with pytest.raises(FileNotFoundError, match=r'no folder .*test/A'):
        ChangeDataset(str(root), 'test')
    for folder in ('A', 'B', 'label'):
        (root / 'empty' / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=r'no images in .*: looked for \*.png'):
        ChangeDataset(str(root), 'empty')
