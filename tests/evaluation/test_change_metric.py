"""Change metrics against scikit-learn's definition, computed here from the pixels."""

import numpy as np
import pytest
import torch

from mtp.evaluation import ChangeMetric


def metric():
    result = ChangeMetric()
    result.dataset_meta = dict(classes=('unchanged', 'changed'))
    return result


def sample(name, true, found):
    return dict(
        img_path=name,
        gt_sem_seg=dict(data=torch.as_tensor(true)[None]),
        pred_sem_seg=dict(data=torch.as_tensor(found)[None]),
    )


def test_equals_the_definition_over_all_pixels():
    rng = np.random.default_rng(0)
    images = [
        (rng.choice([0, 0, 1, 255], (40, 30 + i)), rng.integers(0, 2, (40, 30 + i)))
        for i in range(5)
    ]
    evaluator = metric()
    for i, (true, found) in enumerate(images):
        evaluator.process({}, [sample(f'{i}.png', true, found)])
    evaluator.process({}, [sample('0.png', *images[0])])  # seen by a second process
    scores = evaluator.evaluate(6)

    true, found = (np.concatenate([x[k].ravel() for x in images]) for k in range(2))
    true, found = true[true != 255], found[true != 255]
    ious = []
    for label, name in enumerate(('unchanged', 'changed')):
        hit = ((true == label) & (found == label)).sum()
        precision, recall = hit / (found == label).sum(), hit / (true == label).sum()
        ious.append(hit / ((true == label) | (found == label)).sum())
        expected = dict(
            precision=precision,
            recall=recall,
            IoU=ious[-1],
            F1=2 * precision * recall / (precision + recall),
        )
        for score, value in expected.items():
            assert scores[f'{name}/{score}'] == pytest.approx(100 * value)
    assert scores['mIoU'] == pytest.approx(100 * np.mean(ious))
    assert scores['accuracy'] == pytest.approx(100 * (true == found).mean())


def test_counts_beyond_float32_are_exact():
    evaluator = metric()
    evaluator.results = [(str(i), np.array([[2**24, 0], [1, 1]])) for i in range(3)]
    assert evaluator.compute_metrics(evaluator.results)['changed/recall'] == 50
    assert evaluator.compute_metrics(evaluator.results)['accuracy'] < 100


def test_an_answer_without_change_is_not_perfect_where_nothing_has_changed(warnings):
    zeros = np.zeros((4, 4), int)
    evaluator = metric()
    evaluator.process({}, [sample('a', zeros, zeros)])
    scores = evaluator.evaluate(1)
    assert scores['unchanged/F1'] == 100 and scores['classes_without_labels'] == 1
    assert all(np.isnan(scores[key]) for key in ('mIoU', 'changed/F1', 'changed/recall'))
    assert 'labelled changed: ' in warnings.pop() and not warnings
    evaluator.process({}, [sample('a', 1 - zeros, zeros), sample('b', zeros, zeros)])
    scores = evaluator.evaluate(2)
    assert scores['changed/F1'] == scores['changed/recall'] == scores['changed/IoU'] == 0
    assert np.isnan(scores['changed/precision']) and scores['mIoU'] == 25
    assert not warnings
