"""Segmentation metrics against the definition, computed here from the pixels."""

import numpy as np
import pytest
import torch

from mtp.evaluation import SegmentationMetric

CLASSES = ('background', 'building', 'road', 'water')


def metric():
    result = SegmentationMetric()
    result.dataset_meta = dict(classes=CLASSES)
    return result


def test_iou_of_each_class_and_their_mean(warnings):
    rng = np.random.default_rng(0)
    evaluator = metric()
    images = [
        (rng.choice([0, 1, 1, 2, 255], (40, 30 + i)), rng.integers(0, 3, (40, 30 + i)))
        for i in range(4)
    ]
    for true, found in images:
        evaluator.process(
            {},
            [
                dict(
                    gt_sem_seg=dict(data=torch.as_tensor(true)[None]),
                    pred_sem_seg=dict(data=torch.as_tensor(found)[None]),
                )
            ],
        )
    scores = evaluator.evaluate(4)

    true, found = (np.concatenate([image[k].ravel() for image in images]) for k in range(2))
    true, found = true[true != 255], found[true != 255]
    ious = [
        100 * ((true == i) & (found == i)).sum() / ((true == i) | (found == i)).sum()
        for i in range(3)
    ]
    for name, iou in zip(CLASSES, ious):
        assert scores[f'{name}/IoU'] == pytest.approx(iou)
    assert np.isnan(scores['water/IoU'])  # it does not occur
    assert scores['mIoU'] == pytest.approx(np.mean(ious), abs=0.005)  # mmseg rounds
    assert scores['mIoU_without_background'] == pytest.approx(np.mean(ious[1:]))
    assert 'labelled water: ' in warnings.pop() and not warnings


def test_counts_beyond_float32_are_exact():
    evaluator = metric()
    big, one = torch.tensor([2.0**24, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0])
    evaluator.results = [(one, one, one, one)] * 2 + [(big, big + big, big, big)]
    assert evaluator.compute_metrics(evaluator.results)['background/IoU'] == pytest.approx(
        100 * (2**24 + 2) / (2**25 + 2), rel=1e-12
    )


def test_all_background_is_seen():
    evaluator = metric()
    pixels = torch.tensor([90.0, 10.0, 0.0, 0.0])
    found = torch.tensor([100.0, 0.0, 0.0, 0.0])
    hit = torch.minimum(pixels, found)
    evaluator.results = [(hit, pixels + found - hit, found, pixels)]
    scores = evaluator.compute_metrics(evaluator.results)
    assert scores['mIoU'] == 45 and scores['mIoU_without_background'] == 0
    assert scores['classes_without_labels'] == 2
