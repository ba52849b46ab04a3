"""The metrics of the finetuning configs equal reference implementations, on random predictions."""

from itertools import starmap
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
import torch
from mmengine.config import Config
from mmengine.registry import METRICS, init_default_scope
from mmrotate.evaluation.functional import mean_ap
from mmrotate.structures import RotatedBoxes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mtp.data.datasets import DATASETS
from mtp.recipes.table import config_of

CLASSES = {name: DATASETS[name].classes for name in ('dior', 'dior_r', 'spacenet_v1', 'levir')}


def evaluator_of(dataset: str, **options):
    """The test metric of a data set's config."""
    cfg = Config.fromfile(config_of(dataset, 'vit_b_rvsa'))
    init_default_scope(cfg.default_scope)
    metric = METRICS.build({**cfg.test_evaluator, **options})
    metric.dataset_meta = dict(classes=CLASSES.get(dataset))
    return metric


def test_accuracy():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 10)), rng.integers(0, 10, 200)
    scores[np.arange(200), labels] += 0.5
    metric = evaluator_of('eurosat')
    metric.process(
        {},
        [
            dict(pred_score=torch.tensor(row), gt_label=torch.tensor([label]))
            for row, label in zip(scores, labels)
        ],
    )
    found = metric.evaluate(200)
    assert found['accuracy/top1'] == pytest.approx(
        100 * sklearn.metrics.accuracy_score(labels, scores.argmax(1))
    )
    assert found['accuracy/top5'] == pytest.approx(
        100 * sklearn.metrics.top_k_accuracy_score(labels, scores, k=5)
    )


def maps(seed: int, ignored: bool) -> tuple[list[dict], np.ndarray, np.ndarray]:
    """Samples of mmseg, and the counted pixels: true and predicted classes of two."""
    rng = np.random.default_rng(seed)
    samples, pixels = [], []
    for number in range(4):
        true = rng.choice([0, 0, 1, 255 if ignored else 1], (30, 40 + number))
        found = np.where(rng.random(true.shape) < 0.7, true % 254, rng.integers(0, 2, true.shape))
        samples.append(
            dict(
                img_path=f'{number}.png',
                gt_sem_seg=dict(data=torch.as_tensor(true)[None]),
                pred_sem_seg=dict(data=torch.as_tensor(found)[None]),
            )
        )
        pixels.append(np.stack([true, found])[:, true != 255])
    return samples, *np.concatenate(pixels, axis=1)


def test_mean_iou():
    samples, true, found = maps(0, ignored=True)
    metric = evaluator_of('spacenet_v1')
    metric.process({}, samples)
    # rounded to two digits by mmseg
    assert metric.evaluate(4)['mIoU'] == pytest.approx(
        100 * sklearn.metrics.jaccard_score(true, found, average='macro'), abs=0.005
    )


def test_change():
    samples, true, found = maps(1, ignored=False)
    metric = evaluator_of('levir')
    metric.process({}, samples)
    scores = metric.evaluate(4)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(true, found)
    iou = sklearn.metrics.jaccard_score(true, found, average=None)
    for label, name in enumerate(CLASSES['levir']):
        assert [scores[f'{name}/{score}'] for score in ('precision', 'recall', 'F1', 'IoU')] == (
            pytest.approx([100 * values[label] for values in (precision, recall, f1, iou)])
        )


def detections(rng: np.random.Generator, count: int, truth: np.ndarray) -> np.ndarray:
    """Boxes ``(count, D)``: true ones, shifted a little, then made-up ones of like sizes."""
    near = truth[rng.permutation(len(truth))[:count]] + rng.normal(
        0, 1.5, (min(count, len(truth)), truth.shape[1])
    ) * np.array([1, 1, 1, 1, 0.03][: truth.shape[1]])
    other = (
        truth[rng.integers(len(truth), size=count - len(near))]
        + np.r_[rng.uniform(-60, 60, 2), np.zeros(truth.shape[1] - 2)]
    )
    return np.concatenate([near, other])


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Centre, width, height and, in radians, angle of objects: ``(count, 5)``."""
    return np.column_stack(
        [
            rng.uniform(40, 200, (count, 2)),
            rng.uniform(20, 60, count),
            rng.uniform(10, 20, count),
            rng.uniform(-1.5, 1.5, count),
        ]
    )


def test_coco_ap():
    rng = np.random.default_rng(2)
    truth, samples, results = [], [], []
    for image in range(6):
        true = boxes(rng, 8)[:, :4]
        true[:, :2] -= true[:, 2:] / 2  # x, y, w, h
        labels = rng.integers(0, 3, 8)
        truth += [
            dict(
                id=len(truth) + i + 1,
                image_id=image,
                category_id=int(label),
                iscrowd=0,
                bbox=box.tolist(),
                area=float(box[2] * box[3]),
            )
            for i, (box, label) in enumerate(zip(true, labels))
        ]
        found, scores = detections(rng, 12, true).round(3), rng.random(12).round(4)
        found_labels = rng.integers(0, 3, 12)
        results += [
            dict(image_id=image, category_id=int(label), bbox=box.tolist(), score=float(score))
            for box, score, label in zip(found, scores, found_labels)
        ]
        corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
        samples.append(
            dict(
                img_id=image,
                instances=[
                    dict(
                        bbox=[*box[:2], *(box[:2] + box[2:])],
                        bbox_label=int(label),
                        ignore_flag=0,
                        area=float(box[2] * box[3]),
                    )
                    for box, label in zip(true, labels)
                ],
                pred_instances=dict(
                    bboxes=torch.tensor(corners),
                    scores=torch.tensor(scores),
                    labels=torch.tensor(found_labels),
                ),
            )
        )
    content = dict(
        images=[
            dict(id=image, height=256, width=256, file_name=f'{image}.jpg') for image in range(6)
        ],
        annotations=truth,
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES['dior'])],
    )
    metric = evaluator_of('dior')
    metric.process({}, samples)
    found = metric.evaluate(6)

    reference = COCO()
    reference.dataset = content
    reference.createIndex()
    evaluation = COCOeval(reference, reference.loadRes(results), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0.02 < evaluation.stats[0] < 0.9 and evaluation.stats[5] == -1
    assert found == {
        f'coco/bbox_mAP{part}': pytest.approx(expected, abs=1e-7)
        for part, expected in zip(('', '_50', '_75', '_s', '_m', '_l'), evaluation.stats)
    }

    nothing = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
    metric.process({}, [dict(samples[0], pred_instances=nothing)])
    assert metric.evaluate(1) == {
        f'coco/bbox_mAP{part}': value
        for part, value in zip(('', '_50', '_75', '_s', '_m', '_l'), (0, 0, 0, 0, -1, -1))
    }


@pytest.mark.parametrize('mode', ['11points', 'area'])
def test_rotated_map(monkeypatch, mode: str):
    # no pool of processes, which would each import everything again
    pool = SimpleNamespace(starmap=lambda *args: list(starmap(*args)), close=lambda: None)
    monkeypatch.setattr(mean_ap, 'get_context', lambda _: SimpleNamespace(Pool=lambda _: pool))
    rng = np.random.default_rng(3)
    classes = len(CLASSES['dior_r'])
    samples, by_class, annotations = [], [], []
    for image in range(5):
        true, labels = boxes(rng, 8).astype(np.float32), rng.integers(0, 3, 8)
        found = detections(rng, 14, true).astype(np.float32)
        scores, found_labels = rng.random(14).astype(np.float32), rng.integers(0, 3, 14)
        by_class.append(
            [np.column_stack([found, scores])[found_labels == label] for label in range(classes)]
        )
        none = dict(bboxes_ignore=np.zeros((0, 5), np.float32), labels_ignore=np.zeros(0, int))
        annotations.append(dict(bboxes=true, labels=labels, **none))
        samples.append(
            dict(
                img_id=image,
                gt_instances=dict(
                    bboxes=RotatedBoxes(torch.tensor(true)), labels=torch.tensor(labels)
                ),
                ignored_instances=dict(
                    bboxes=RotatedBoxes(torch.zeros(0, 5)), labels=torch.zeros(0, dtype=torch.long)
                ),
                pred_instances=dict(
                    bboxes=torch.tensor(found),
                    scores=torch.tensor(scores),
                    labels=torch.tensor(found_labels),
                ),
            )
        )
    configured = evaluator_of('dior_r')
    assert configured.use_07_metric
    metric = evaluator_of('dior_r', eval_mode=mode)
    metric.process({}, samples)
    expected, _ = mean_ap.eval_rbbox_map(
        by_class,
        annotations,
        iou_thr=0.5,
        use_07_metric=mode == '11points',
        box_type='rbox',
        dataset=CLASSES['dior_r'],
    )
    assert 0.02 < expected < 0.9
    assert metric.evaluate(5)['dota/mAP'] == pytest.approx(expected)
