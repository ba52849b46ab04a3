"""AP of rotated boxes equals mmrotate's own evaluation."""

import functools
import zipfile
from itertools import starmap
from types import SimpleNamespace

import mmengine
import numpy as np
import pytest
import torch
from mmrotate.evaluation import DOTAMetric
from mmrotate.evaluation.functional import mean_ap
from mmrotate.structures import RotatedBoxes

from mtp.evaluation import RotatedMetric
from mtp.evaluation import rotated_metric as rotated
from mtp.evaluation.rotated_metric import RotatedImage, rotated_ap

CLASSES = ('plane', 'ship', 'harbor', 'bridge')


@pytest.fixture(autouse=True)
def plain_mmrotate(monkeypatch):
    """mmrotate in this process, and equal scores in the order of the predictions."""
    pool = SimpleNamespace(starmap=lambda *args: list(starmap(*args)), close=lambda: None)
    monkeypatch.setattr(mean_ap, 'get_context', lambda _: SimpleNamespace(Pool=lambda _: pool))
    stable = SimpleNamespace(**vars(np))
    stable.argsort = functools.partial(np.argsort, kind='stable')
    monkeypatch.setattr(mean_ap, 'np', stable)


def boxes(rng, count):
    return np.column_stack(
        [
            rng.uniform(0, 100, (count, 2)),
            rng.uniform(15, 50, count),
            rng.uniform(8, 15, count),
            rng.uniform(-2, 2, count),
        ]
    )


def random_image(rng, objects, predictions, ignored=0, scores=1000) -> RotatedImage:
    """Of the predictions some are near true objects, several near the same, some anywhere."""
    true, true_labels = boxes(rng, objects + ignored), rng.integers(0, 3, objects + ignored)
    found, labels = boxes(rng, predictions), rng.integers(0, 4, predictions)
    if len(true):
        near = rng.random(predictions) < 0.8
        copied = rng.integers(0, len(true), predictions)
        found[near] = (true[copied] + rng.normal(0, [2, 2, 2, 2, 0.05], found.shape))[near]
        labels[near] = true_labels[copied[near]]
    return RotatedImage(
        found.astype(np.float32),
        (rng.integers(1, scores, predictions) / scores).astype('f4'),
        labels,
        true.astype(np.float32),
        true_labels,
        np.arange(len(true)) >= objects,
    )


def by_mmrotate(images, **options):
    found = [
        [
            np.column_stack([image.boxes, image.scores])[image.labels == label]
            for label in range(len(CLASSES))
        ]
        for image in images
    ]
    truth = [
        dict(
            bboxes=image.true_boxes[~image.ignored],
            labels=image.true_labels[~image.ignored],
            bboxes_ignore=image.true_boxes[image.ignored],
            labels_ignore=image.true_labels[image.ignored],
        )
        for image in images
    ]
    return mean_ap.eval_rbbox_map(found, truth, logger='silent', **options)[1]


def images_of(kind, rng):
    if kind == 'ignored':
        return [
            random_image(rng, objects, 20, ignored)
            for objects, ignored in ((6, 3), (0, 4), (5, 0), (1, 6))
        ]
    if kind == 'equal scores':
        return [random_image(rng, 5, 40, 2, scores=4) for _ in range(6)]
    if kind == 'empty':
        return [random_image(rng, *counts) for counts in ((0, 9), (5, 0), (0, 0), (4, 8))]
    return [random_image(rng, 8, 30) for _ in range(12)]


@pytest.mark.parametrize('mode', ['11points', 'area'])
@pytest.mark.parametrize('kind', ['plain', 'ignored', 'equal scores', 'empty'])
def test_equals_mmrotate(kind, mode):
    images = images_of(kind, np.random.default_rng(len(kind)))
    for threshold in (0.5, 0.75):
        expected = by_mmrotate(images, iou_thr=threshold, use_07_metric=mode == '11points')
        found = rotated_ap(images, len(CLASSES), threshold, mode)
        assert 0.02 < max(one['ap'] for one in expected) < 1
        for ours, theirs in zip(found, expected, strict=True):
            assert set(ours) == {*theirs, 'angle_errors'}
            for key, value in theirs.items():
                np.testing.assert_allclose(ours[key], value, rtol=0, atol=1e-7, err_msg=key)


def test_nothing_found_or_nothing_true():
    rng = np.random.default_rng(0)
    for counts in ((3, 0), (0, 3), (0, 0)):
        results = rotated_ap([random_image(rng, *counts)], len(CLASSES))
        assert [result['ap'] for result in results] == [0] * len(CLASSES)
        assert sum(result['num_gts'] for result in results) == counts[0]


def test_few_pairs_at_a_time_are_as_good_as_all(monkeypatch):
    images = images_of('plain', np.random.default_rng(5))
    expected = rotated_ap(images, len(CLASSES))
    monkeypatch.setattr(rotated, '_PAIRS_PER_CHUNK', 5)
    assert [one['ap'] for one in rotated_ap(images, len(CLASSES))] == [
        one['ap'] for one in expected
    ]


def test_threshold_must_be_positive():
    with pytest.raises(ValueError, match='must be over 0'):
        rotated_ap([random_image(np.random.default_rng(0), 2, 2)], len(CLASSES), 0.0)


def samples_of(images):
    def instances(boxes, labels, **fields):
        return dict(
            bboxes=RotatedBoxes(torch.from_numpy(boxes)), labels=torch.from_numpy(labels), **fields
        )

    return [
        dict(
            img_id=f'P0__64__{32 * number}___0',
            gt_instances=instances(
                image.true_boxes[~image.ignored], image.true_labels[~image.ignored]
            ),
            ignored_instances=instances(
                image.true_boxes[image.ignored], image.true_labels[image.ignored]
            ),
            pred_instances=instances(
                image.boxes, image.labels, scores=torch.from_numpy(image.scores)
            ),
        )
        for number, image in enumerate(images)
    ]


def evaluated(cls, images, **options):
    metric = cls(**options)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process(None, samples_of(images))
    return metric.evaluate(len(images))


def test_metric_gives_mmrotates_figures():
    images = images_of('ignored', np.random.default_rng(1))
    for options in (dict(), dict(eval_mode='area', iou_thrs=[0.5, 0.75])):
        expected = evaluated(DOTAMetric, images, **options)
        found = evaluated(RotatedMetric, images, **options)
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-7)
        assert 0.02 < expected['dota/mAP'] < 0.98


def turned(degrees, size):
    """A box of class 0, and one turned by an angle as the only prediction."""
    box = np.array([[50, 50, *size, 0.2]], np.float32)
    found = box + np.array([[0, 0, 0, 0, np.radians(degrees)]], np.float32)
    one, zero = np.ones(1, np.float32), np.zeros(1, int)
    return [RotatedImage(found, one, zero, box, zero, np.zeros(1, bool))]


@pytest.mark.parametrize(
    ('degrees', 'size', 'expected'),
    [
        (4, (40, 12), 4),
        (-176, (40, 12), 4),  # the same box, turned by half a circle
        (86, (30, 29), 4),  # a square looks the same after a quarter
        (4, (12, 40), 4),
    ],
)
def test_angle_error_knows_which_turns_change_nothing(degrees, size, expected):
    metrics = evaluated(RotatedMetric, turned(degrees, size))
    assert metrics['dota/angle_error'] == pytest.approx(expected, abs=1e-4)
    assert metrics[f'dota/{CLASSES[0]}/angle_error'] == metrics['dota/angle_error']


def test_sides_that_are_exchanged_are_the_same_box():
    (image,) = turned(90 - 4, (40, 12))
    image.boxes[:, 2:4] = image.boxes[:, 3:1:-1]
    assert evaluated(RotatedMetric, [image])['dota/angle_error'] == pytest.approx(4, abs=1e-4)


def test_stricter_threshold_and_nothing_found():
    image = images_of('plain', np.random.default_rng(3))
    metrics = evaluated(RotatedMetric, image)
    stricter = evaluated(RotatedMetric, image, iou_thrs=[0.75])
    assert (
        metrics['dota/AP75']
        == stricter['dota/AP75']
        == pytest.approx(stricter['dota/mAP'], abs=1e-3)
    )
    assert metrics['dota/AP75'] < metrics['dota/AP50'] == stricter['dota/AP50']
    none = evaluated(RotatedMetric, [random_image(np.random.default_rng(0), 3, 0)])
    assert none.keys() == metrics.keys() and none['dota/mAP'] == none['dota/AP75'] == 0
    assert np.isnan(none['dota/angle_error'])


def test_metric_merges_and_writes_as_mmrotates_does(tmp_path):
    images = images_of('plain', np.random.default_rng(2))
    for cls in (DOTAMetric, RotatedMetric):
        evaluated(cls, images, format_only=True, outfile_prefix=str(tmp_path / cls.__name__))
        evaluated(
            cls, images, merge_patches=True, outfile_prefix=str(tmp_path / f'merged_{cls.__name__}')
        )
    theirs, ours = (
        mmengine.load(tmp_path / f'{name}.bbox.json') for name in ('DOTAMetric', 'RotatedMetric')
    )
    assert ours == theirs and len(ours) == 12 * 30
    theirs, ours = (
        zipfile.ZipFile(tmp_path / f'merged_{name}' / f'merged_{name}.zip')
        for name in ('DOTAMetric', 'RotatedMetric')
    )
    assert ours.namelist() == theirs.namelist() == [f'Task1_{name}.txt' for name in CLASSES]
    assert all(ours.read(name) == theirs.read(name) for name in ours.namelist())
    assert ours.read('Task1_plane.txt')


def test_metric_refuses_what_it_does_not_compare():
    for options in (dict(predict_box_type='qbox'), dict(scale_ranges=[(0, 32)])):
        with pytest.raises(ValueError, match='rotated boxes of all sizes'):
            RotatedMetric(**options)
