"""Accuracy for any number of classes."""

import math

import pytest
import torch

from mtp.evaluation import ClassificationMetric


def evaluate(answers: list[int], true: list[int], num_classes: int) -> dict[str, float]:
    metric = ClassificationMetric()
    metric.dataset_meta = dict(classes=[f'c{i}' for i in range(num_classes)])
    scores = torch.nn.functional.one_hot(torch.tensor(answers), num_classes).float()
    metric.process(
        None,
        [
            dict(pred_score=score, gt_label=torch.tensor([label]))
            for score, label in zip(scores, true)
        ],
    )
    return metric.evaluate(len(true))


def test_two_classes_have_no_top5_and_the_majority_class_is_no_good_answer():
    metrics = evaluate([0, 0, 0, 0], [0, 0, 0, 1], num_classes=2)
    assert metrics['accuracy/top1'] == 75 and 'accuracy/top5' not in metrics
    assert metrics['accuracy/mean_recall'] == 50
    assert metrics['accuracy/c0/recall'] == 100 and metrics['accuracy/c0/precision'] == 75
    assert metrics['accuracy/c1/recall'] == 0 and math.isnan(metrics['accuracy/c1/precision'])


def test_a_class_without_images_is_left_out_of_the_mean():
    metrics = evaluate([0, 1, 2, 3], [0, 0, 2, 3], num_classes=6)
    assert metrics['accuracy/mean_recall'] == pytest.approx(250 / 3)
    assert 'accuracy/top5' in metrics and math.isnan(metrics['accuracy/c1/recall'])
