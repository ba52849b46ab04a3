"""The made-up SAMRS: true layouts, labels that agree, the same bytes for the same seed."""

import json

import numpy as np
import pytest
import shapely
import torch
from mmrotate.structures.bbox import rbox2qbox

from mtp.data import SUBSETS, SAMRSDataset
from mtp.data.run_lengths import decode_mask
from mtp.data.samrs.checking import check_subset
from mtp.data.samrs.to_coco import rectangle
from mtp.data.synthetic import CLASSES, make_samrs
from mtp.data.transforms import LoadImage, LoadLabels


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_samrs(tmp_path_factory.mktemp('data') / 'samrs', num_train=12, num_valid=3)


def open_subset(root, subset, split='train'):
    return SAMRSDataset(subset, root / subset.upper(), split, classes=tuple(CLASSES[subset]))


def all_files(root):
    return {
        path.relative_to(root): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file() and '.mtp_index' not in path.parts
    }


@pytest.mark.parametrize('subset', SUBSETS)
def test_it_is_read_like_the_real_one(root, subset):
    assert set(CLASSES[subset]) <= set(SUBSETS[subset].classes)
    assert len(open_subset(root, subset, 'valid')) == 3
    dataset = open_subset(root, subset)
    assert len(dataset) == 12
    labels = set()
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        sample = LoadLabels().transform(LoadImage().transform(info))
        assert sample['img'].shape == (128, 128, 3)
        assert 2 <= len(sample['gt_bboxes']) == len(sample['gt_rotated_bboxes']) <= 5
        np.testing.assert_array_equal(
            sample['gt_bboxes_labels'], sample['gt_rotated_bboxes_labels']
        )
        # without overlaps the map is the sum of the masks
        expected = sum(
            mask * (label + 1)
            for mask, label in zip(sample['gt_masks'].masks.astype(int), sample['gt_bboxes_labels'])
        )
        np.testing.assert_array_equal(sample['gt_seg_map'], expected)
        labels |= set(sample['gt_bboxes_labels'].tolist())
    assert labels == set(range(len(CLASSES[subset])))


def mirrored(corners):
    """The same box with the opposite angle."""
    centre = corners.mean(0)
    return (corners - centre) * (1, -1) + centre


@pytest.mark.parametrize('subset', SUBSETS)
def test_masks_agree_with_boxes_and_not_with_a_wrong_angle(root, subset):
    dataset = open_subset(root, subset)
    right, wrong = [], []
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        labels = info['labels']
        quads = rbox2qbox(torch.from_numpy(labels.rotated)).reshape(-1, 4, 2).numpy()
        for counts, corners, label in zip(labels.counts, quads, labels.rotated_labels):
            mask = decode_mask(dict(size=(128, 128), counts=counts), 128, 128)
            hull = shapely.Polygon(rectangle(mask))
            assert corners.min() > -0.1 and corners.max() < 128.1
            if CLASSES[subset][dataset.metainfo['classes'][label]] in ('ship', 'truck', 'court'):
                right.append(iou(hull, shapely.Polygon(corners)))
                wrong.append(iou(hull, shapely.Polygon(mirrored(corners))))
    assert min(right) > 0.7
    assert np.mean(np.array(wrong) < 0.5) > 0.5, 'most objects show a wrong angle'


def iou(first, second):
    return first.intersection(second).area / first.union(second).area


@pytest.mark.parametrize('subset', SUBSETS)
def test_the_checker_finds_nothing(root, subset):
    findings = check_subset(root / subset.upper(), subset)
    assert not findings.problems
    assert findings.images == dict(train=12, valid=3)


def test_the_seed_decides(root, tmp_path):
    again = make_samrs(tmp_path / 'again', num_train=12, num_valid=3)
    assert all_files(again) == all_files(root)
    other = make_samrs(tmp_path / 'other', num_train=1, num_valid=0, seed=1)
    image = 'SOTA/trainval/images/sota_00000.png'
    assert (other / image).read_bytes() != (root / image).read_bytes()


def test_a_second_run_changes_nothing(tmp_path):
    arguments = dict(num_train=1, num_valid=1, image_size=64)
    root = make_samrs(tmp_path / 'samrs', **arguments)
    marked = root / 'SOTA/train.txt'
    marked.write_text('mine')
    make_samrs(root, **arguments)
    assert marked.read_text() == 'mine'
    with pytest.raises(FileExistsError, match='remove it'):
        make_samrs(root, **dict(arguments, seed=1))
    assert marked.read_text() == 'mine'


def test_an_interrupted_run_leaves_nothing_behind_and_can_be_repeated(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('mtp.data.samrs.synthesis.samrs_to_coco', interrupt)
        make_samrs(tmp_path / 'samrs', 1, 1, 64)
    assert not (tmp_path / 'samrs').exists()
    root = make_samrs(tmp_path / 'samrs', 1, 1, 64)
    assert json.loads((root / 'synthetic.json').read_text())['image_size'] == 64
    assert [path.name for path in tmp_path.iterdir()] == ['samrs']


def test_impossible_requests(tmp_path):
    for wrong in (dict(num_train=0), dict(num_valid=-1), dict(image_size=8)):
        with pytest.raises(ValueError, match='at least'):
            make_samrs(tmp_path / 'samrs', **wrong)
