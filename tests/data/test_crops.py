"""The training crop equals the recipe's separate transforms, draw for draw."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomResize
from mmseg.datasets.transforms import PhotoMetricDistortion
from pycocotools import mask as coco_mask

from mtp.data import (
    Crop,
    DrawDistortion,
    FilterInstances,
    Flip,
    LoadCrop,
    LoadImage,
    LoadLabels,
    MultiTaskDataset,
    PackLabels,
    Resize,
    SAMRSDataset,
)
from mtp.data.run_lengths import Axis, crop_map, crop_masks, read_counts
from mtp.models import MultiTaskDataPreprocessor
from mtp.sample_fields import pack_batch
from tests.data.small import CLASSES, make_subset


def separate(size, ratio_range=(0.5, 2.0)):
    return [
        dict(type=LoadImage),
        dict(type=LoadLabels),
        dict(type=Flip, prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal']),
        dict(
            type=RandomResize,
            scale=(size, size),
            ratio_range=ratio_range,
            keep_ratio=True,
            resize_type=Resize,
        ),
        dict(type=Crop, size=size),
        dict(type=FilterInstances),
    ]


def build(root, pipeline, subset='sota', **kwargs):
    return MultiTaskDataset(
        [
            SAMRSDataset(
                subset,
                root,
                classes=CLASSES,
                name='mine',
                pipeline=[*pipeline, dict(type=PackLabels)],
                **kwargs,
            )
        ]
    )


def assert_equal(found, expected):
    torch.testing.assert_close(found['inputs'].int(), expected['inputs'].int(), atol=1, rtol=0)
    found, expected = found['data_samples'], expected['data_samples']
    assert set(found.keys()) == set(expected.keys())
    for key in (
        'img_id',
        'img_path',
        'ori_shape',
        'img_shape',
        'scale_factor',
        'flip',
        'flip_direction',
        'sample_seed',
        'dataset',
    ):
        assert found.get(key) == expected.get(key), key
    if 'gt_sem_seg' in expected:
        assert torch.equal(found.gt_sem_seg.sem_seg, expected.gt_sem_seg.sem_seg)
    for field in ('gt_instances', 'ignored_instances', 'gt_rotated_instances'):
        if field in expected:
            ours, theirs = found.get(field), expected.get(field)
            torch.testing.assert_close(ours.bboxes.tensor, theirs.bboxes.tensor, atol=1e-3, rtol=0)
            assert torch.equal(ours.labels, theirs.labels)
            if 'masks' in theirs:
                assert np.array_equal(ours.masks.masks, theirs.masks.masks)


def crowd_the_second(root, subset):
    path = next(root.rglob('*ins_segmentation.json'))
    coco = json.loads(path.read_text())
    coco['annotations'][1]['iscrowd'] = 1
    path.write_text(json.dumps(coco))


@pytest.mark.parametrize('size, ratio_range', [(96, (0.5, 2.0)), (40, (1.0, 3.0)), (300, (0.5, 2))])
def test_equals_the_separate_transforms(tmp_path, size, ratio_range):
    root = make_subset(tmp_path, sizes=((128, 128), (96, 120), (131, 77)))
    crowd_the_second(root, 'sota')
    ours = build(root, [dict(type=LoadCrop, size=size, ratio_range=ratio_range)])
    theirs = build(root, separate(size, ratio_range))
    flips = set()
    for seed in range(60):
        sample = ours[seed % 3, seed]
        assert_equal(sample, theirs[seed % 3, seed])
        flips.add(sample['data_samples'].flip_direction)
    assert flips == {'horizontal', 'vertical', 'diagonal', None}


@pytest.mark.parametrize('tasks', [('semantic',), ('instance',), ('rotated',)])
def test_missing_tasks(tmp_path, tasks):
    root = make_subset(tmp_path, 'sior')
    ours = build(root, [dict(type=LoadCrop, size=64)], 'sior', tasks=tasks)
    theirs = build(root, separate(64), 'sior', tasks=tasks)
    for seed in range(8):
        assert_equal(ours[seed % 3, seed], theirs[seed % 3, seed])


def test_images_without_objects(tmp_path):
    root = make_subset(tmp_path, objects=())
    ours = build(root, [dict(type=LoadCrop, size=64)])
    theirs = build(root, separate(64))
    for seed in range(4):
        assert_equal(ours[0, seed], theirs[0, seed])


def test_a_crop_that_loses_its_masks_is_drawn_again(tmp_path):
    """Boxes larger than their masks: some crops see a box, but no pixel of its mask."""
    root = make_subset(tmp_path, objects=[('ship', (30, 28, 40, 12), 25)])
    path = next(root.rglob('*ins_segmentation.json'))
    coco = json.loads(path.read_text())
    for annotation in coco['annotations']:
        annotation['bbox'] = [0, 0, 120, 90]
    path.write_text(json.dumps(coco))
    ours = build(root, [dict(type=LoadCrop, size=32, ratio_range=(2.0, 4.0))])
    theirs = build(root, separate(32, (2.0, 4.0)))
    other = 0
    for seed in range(30):
        sample = ours[seed % 3, seed]
        assert_equal(sample, theirs[seed % 3, seed])
        other += sample['data_samples'].img_id != seed % 3
    assert other > 5


def test_files_that_do_not_fit_are_named(tmp_path):
    root = make_subset(tmp_path)
    dataset = build(root, [dict(type=LoadCrop, size=64)])
    image = root / 'trainval/images/train_1.png'
    cv2.imwrite(str(image), np.zeros((60, 128, 3), np.uint8))
    with pytest.raises(ValueError, match=r'train_1.png has shape \(60, 128, 3\).*\(128, 128\)'):
        dataset[1, 0]
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(ValueError, match='train_1.png is missing or no readable image'):
        dataset[1, 0]
    seg = root / 'trainval/rhbox_segs_init/gray/train_0.png'
    cv2.imwrite(str(seg), np.full((128, 128), 7, np.uint8))
    with pytest.raises(ValueError, match=r'train_0.png holds the value 7.*0 to 2'):
        dataset[0, 0]
    cv2.imwrite(str(seg), np.full((64, 64), 255, np.uint8))
    with pytest.raises(ValueError, match=r'train_0.png has shape \(64, 64\)'):
        dataset[0, 0]


def test_distortion_on_the_device_equals_mmseg(tmp_path):
    root = make_subset(tmp_path)
    for path in root.rglob('images/*.png'):  # all colours
        rng = np.random.default_rng(0)
        height, width = cv2.imread(str(path)).shape[:2]
        cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    ours = build(root, [dict(type=LoadCrop, size=96), dict(type=DrawDistortion)])
    theirs = build(root, [dict(type=LoadCrop, size=96), dict(type=PhotoMetricDistortion)])
    preprocess = MultiTaskDataPreprocessor(96)
    items = [(seed % 3, seed) for seed in range(48)]
    found = preprocess(pack_batch([ours[item] for item in items]), training=True)['inputs']
    expected = preprocess(pack_batch([theirs[item] for item in items]), training=True)['inputs']
    difference = ((found - expected) * preprocess.std).abs()
    # one value in 500 differs by one level, which a later step may spread
    assert difference.mean() < 0.02 and difference.max() < 6


def random_masks(rng, height, width):
    kinds = [np.zeros((height, width)), np.ones((height, width)), rng.random((height, width)) < 0.5]
    for _ in range(4):
        kinds.append(
            cv2.ellipse(
                np.zeros((height, width)),
                rng.integers(0, (width, height)).tolist(),
                rng.integers(1, 60, 2).tolist(),
                30,
                0,
                360,
                1,
                -1,
            )
        )
    return [kinds[i].astype(np.uint8) for i in rng.integers(0, len(kinds), rng.integers(0, 6))]


def test_runs_are_sampled_as_bitmaps_are():
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width, new_height, new_width = rng.integers(2, 200, 4).tolist()
        masks = random_masks(rng, height, width)
        counts = [coco_mask.encode(np.asfortranarray(mask))['counts'] for mask in masks]
        runs = read_counts(
            np.frombuffer(b''.join(counts), np.uint8),
            np.cumsum([len(c) for c in counts], dtype=np.int64),
            height,
        )
        step = tuple(rng.choice([-1, 1], 2))
        rows, columns = (
            Axis((np.arange(new) * old // new)[::s], old)
            for new, old, s in zip((new_height, new_width), (height, width), step)
        )
        expected = [mask[rows.source][:, columns.source] for mask in masks]
        seen, boxes, pixels = crop_masks(runs, rows, columns)
        assert seen.tolist() == [i for i, mask in enumerate(expected) if mask.any()]
        for mask, (x1, y1, x2, y2) in zip((expected[i] for i in seen), boxes):
            size = (x2 - x1) * (y2 - y1)
            part, pixels = pixels[:size].reshape(x2 - x1, y2 - y1).T, pixels[size:]
            assert np.array_equal(part, mask[y1:y2, x1:x2]) and mask.sum() == part.sum()
        labels = rng.integers(0, 4, (height, width)).astype(np.uint8)
        y, x = labels.nonzero()
        assert np.array_equal(
            crop_map(np.stack([y, x, x + 1, labels[y, x]], 1), rows, columns),
            labels[rows.source][:, columns.source],
        )
