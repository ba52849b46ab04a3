"""Augmentation keeps boxes, rotated boxes, masks and the semantic map on their objects."""

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomResize
from mmdet.structures.bbox import HorizontalBoxes
from mmrotate.structures import RotatedBoxes
from mmseg.datasets.transforms import PhotoMetricDistortion

from mtp.data import (
    Crop,
    FilterInstances,
    Flip,
    LoadImage,
    LoadLabels,
    MultiTaskDataset,
    PackLabels,
    Resize,
    SAMRSDataset,
)
from mtp.data.labels import to_rotated
from mtp.ops import box_iou_rotated
from tests.data.small import CLASSES, COLOURS, make_subset

GEOMETRY = [
    dict(type=LoadImage),
    dict(type=LoadLabels),
    dict(type=Flip, prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal']),
    dict(
        type=RandomResize,
        scale=(96, 96),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
        resize_type=Resize,
        interpolation='nearest',
    ),
    dict(type=Crop, size=96),
    dict(type=FilterInstances),
]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_subset(tmp_path_factory.mktemp('sota'))


def build(root, pipeline, **kwargs):
    return MultiTaskDataset(
        [SAMRSDataset('sota', root, classes=CLASSES, name='mine', pipeline=pipeline, **kwargs)]
    )


def test_labels_stay_on_their_objects(root):
    dataset = build(root, [*GEOMETRY, dict(type=PackLabels)])
    flips, objects = set(), 0
    for seed in range(60):
        sample = dataset[seed % 3, seed]
        image = sample['inputs'].permute(1, 2, 0).numpy()
        label = sample['data_samples']
        flips.add(label.get('flip_direction') if label.flip else None)
        assert label.sample_seed == seed and max(image.shape) <= 96
        instances = label.gt_instances
        union = np.zeros(image.shape[:2], np.int64)
        for box, cls, mask in zip(instances.bboxes.tensor, instances.labels, instances.masks.masks):
            rows, columns = mask.nonzero()
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            colours = np.unique(image[mask > 0], axis=0)
            assert len(colours) == 1 and tuple(colours[0]) in COLOURS
            union[mask > 0] = cls + 1
        assert np.array_equal(union, label.gt_sem_seg.sem_seg[0].numpy())

        # the rotated box of an object whole inside the crop covers the same pixels as its mask
        rotated = label.gt_rotated_instances
        for rbox, cls in zip(rotated.bboxes.tensor.numpy(), rotated.labels):
            corners = cv2.boxPoints((rbox[:2], rbox[2:4], float(np.rad2deg(rbox[4]))))
            if corners.min() < 0 or (corners.max(0) > image.shape[1::-1]).any():
                continue
            drawn = np.zeros(image.shape[:2], np.uint8)
            cv2.fillPoly(drawn, [np.round(corners).astype(np.int32)], 1)
            overlap = max(
                (drawn & mask).sum() / (drawn | mask).sum()
                for mask, other in zip(instances.masks.masks, instances.labels)
                if other == cls
            )
            assert overlap > 0.75, f'seed {seed}'
            objects += 1
    assert flips == {None, 'horizontal', 'vertical', 'diagonal'} and objects > 50


def test_randomness_belongs_to_the_sample(root):
    dataset = build(root, [*GEOMETRY, dict(type=PhotoMetricDistortion), dict(type=PackLabels)])
    first = dataset[0, 5]['inputs']
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    assert torch.equal(dataset[0, 5]['inputs'], first)
    assert np.array_equal(np.random.get_state()[1], state), 'the global generator is left alone'
    assert not torch.equal(dataset[0, 6]['inputs'], first)


def test_photometric_distortion_keeps_colours_apart(root):
    """The official code's float images came out grey or hue-folded (a channel spread of 2)."""
    dataset = build(
        root,
        [
            dict(type=LoadImage),
            dict(type=LoadLabels),
            dict(type=PhotoMetricDistortion),
            dict(type=PackLabels),
        ],
    )
    for seed in range(40):
        image = dataset[0, seed]['inputs'].int()
        assert dataset[0, seed]['inputs'].dtype == torch.uint8
        assert (image.amax(0) - image.amin(0)).max() > 30


def test_validation_labels_stay_unscaled(root):
    dataset = build(
        root,
        [
            dict(type=LoadImage),
            dict(type=Resize, scale=(64, 64), keep_ratio=True),
            dict(type=LoadLabels),
            dict(type=PackLabels),
        ],
        test_mode=True,
    )
    sample = dataset[2]
    label = sample['data_samples']
    assert sample['inputs'].shape == (3, 51, 64) and label.ori_shape == (96, 120)
    assert label.gt_sem_seg.sem_seg.shape == (1, 96, 120)
    assert label.gt_instances.masks.masks.shape[1:] == (96, 120)
    assert label.gt_rotated_instances.bboxes.tensor[:, :2].max() > 64


def test_images_without_objects_and_missing_tasks(tmp_path):
    root = make_subset(tmp_path, objects=())
    sample = build(root, [*GEOMETRY, dict(type=PackLabels)])[0, 1]['data_samples']
    assert len(sample.gt_instances) == len(sample.gt_rotated_instances) == 0
    assert sample.gt_instances.masks.masks.shape[0] == 0 and not sample.gt_sem_seg.sem_seg.any()
    sample = build(root, [*GEOMETRY, dict(type=PackLabels)], tasks=('rotated',))[0, 1]
    assert set(sample['data_samples'].keys()) == {'gt_rotated_instances'}


def test_crop_without_any_object_is_drawn_again(root):
    class LoseFirst:
        calls = 0

        def __call__(self, results):
            LoseFirst.calls += 1
            return None if LoseFirst.calls == 1 else results

    dataset = build(
        root, [dict(type=LoadImage), dict(type=LoadLabels), LoseFirst(), dict(type=PackLabels)]
    )
    assert dataset[0, 9]['data_samples'].sample_seed == 9 and LoseFirst.calls == 2


def test_crowds_are_ignored_not_learned(root):
    dataset = build(root, [dict(type=LoadImage), dict(type=LoadLabels)])
    results = dataset[0]
    results['gt_ignore_flags'][1] = True
    sample = PackLabels().transform(results)['data_samples']
    assert len(sample.gt_instances) == 3 and len(sample.ignored_instances) == 1


def test_unreadable_files_are_named(tmp_path):
    root = make_subset(tmp_path)
    dataset = build(root, [dict(type=LoadImage), dict(type=LoadLabels)])
    seg = root / 'trainval/rhbox_segs_init/gray/train_0.png'
    cv2.imwrite(str(seg), np.full((128, 128), 7, np.uint8))
    with pytest.raises(ValueError, match=r'train_0.png holds the value 7.*0 to 2'):
        dataset[0]
    cv2.imwrite(str(seg), np.full((64, 64), 255, np.uint8))
    with pytest.raises(ValueError, match=r'train_0.png has shape \(64, 64\)'):
        dataset[0]
    image = root / 'trainval/images/train_1.png'
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(ValueError, match='train_1.png is missing or no readable image'):
        dataset[1]


@pytest.fixture(scope='module')
def golden(shared):
    return {
        key: torch.from_numpy(value)
        for key, value in np.load(shared / 'golden' / 'boxes' / 'boxes.npz').items()
    }


def results_of(golden):
    return dict(
        img=np.zeros((100, 140, 3), np.uint8),
        img_shape=(100, 140),
        gt_bboxes=HorizontalBoxes(golden['rbox_to_hbox'].clone()),
        gt_rotated_bboxes=RotatedBoxes(golden['rbox'].clone()),
        gt_rotated_bboxes_labels=np.arange(len(golden['rbox'])),
    )


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flip_equals_golden(golden, direction):
    results = Flip(prob=1.0, direction=direction).transform(results_of(golden))
    torch.testing.assert_close(
        results['gt_rotated_bboxes'].tensor, golden[f'rbox_flip_{direction}'], atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(
        results['gt_bboxes'].tensor, golden[f'hbox_flip_{direction}'], atol=1e-4, rtol=1e-5
    )


def test_resize_equals_golden(golden):
    results = Resize(scale_factor=0.7).transform(results_of(golden))
    torch.testing.assert_close(
        results['gt_rotated_bboxes'].tensor, golden['rbox_rescale_0.7_0.7'], atol=1e-4, rtol=1e-5
    )


def test_crop_equals_golden(golden):
    class FixedCrop(Crop):
        def _rand_offset(self, margin):
            return 20, 30

        def _get_crop_size(self, size):
            return 64, 80

    results = FixedCrop(80).transform(results_of(golden))
    inside = golden['rbox_translated_inside_64x80']
    torch.testing.assert_close(
        results['gt_rotated_bboxes'].tensor,
        golden['rbox_translate_-30_-20'][inside],
        atol=1e-4,
        rtol=1e-5,
    )
    assert results['gt_rotated_bboxes_labels'].tolist() == inside.nonzero()[:, 0].tolist()


def test_quadrilaterals_equal_golden(golden):
    found = torch.from_numpy(to_rotated(golden['quads'].tolist()))
    iou = box_iou_rotated(found, golden['quads_to_rbox_le90'], aligned=True)
    assert iou.min() > 0.999
