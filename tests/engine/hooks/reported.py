"""Tested samples of every task, with faults at random, and the page that a report makes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmrotate.structures import RotatedBoxes
from mmseg.structures import SegDataSample

from mtp.engine import ReportHook
from mtp.evaluation import (
    ChangeMetric,
    ClassificationMetric,
    DetectionMetric,
    MultiTaskMetric,
    RotatedMetric,
    SegmentationMetric,
)
from mtp.files import json_text

CLASSES = ('plane', '<script>', 'a/b')  # of files that nobody looked at
SIZE = 64


def objects(rng: np.random.Generator, rotated: bool) -> tuple[InstanceData, InstanceData]:
    """Return predicted and true objects: found, shifted, of another class, missed, invented."""
    number = int(rng.integers(1, 5))
    low, sides = rng.uniform(0, 40, (number, 2)), rng.uniform(8, 20, (number, 2))
    true = np.concatenate([low, low + sides], 1)
    if rotated:
        true = np.concatenate([low + sides / 2, sides, rng.uniform(-1, 1, (number, 1))], 1)
    labels = rng.integers(0, 3, number)
    again = rng.permutation(np.repeat(np.arange(number), 2))[: number + 1]
    found = true[again] + rng.normal(0, 1, (number + 1, true.shape[1])) * (0.1 if rotated else 1)
    found_labels = np.where(rng.random(number + 1) < 0.7, labels[again], rng.integers(0, 3))
    box_type = RotatedBoxes if rotated else HorizontalBoxes
    predicted = InstanceData(
        bboxes=box_type(torch.tensor(found, dtype=torch.float32)),
        labels=torch.tensor(found_labels),
        scores=torch.tensor(rng.random(number + 1), dtype=torch.float32),
    )
    truth = InstanceData(
        bboxes=box_type(torch.tensor(true, dtype=torch.float32)), labels=torch.tensor(labels)
    )
    return predicted, truth


def upright(rng: np.random.Generator) -> DetDataSample:
    found, truth = objects(rng, rotated=False)
    listed = [
        dict(bbox=box, bbox_label=label, area=100.0, ignore_flag=int(rng.random() < 0.2))
        for box, label in zip(truth.bboxes.tensor.tolist(), truth.labels.tolist())
    ]
    sample = DetDataSample(metainfo=dict(instances=listed))
    sample.pred_instances = found
    return sample


def rotated(rng: np.random.Generator) -> DetDataSample:
    found, truth = objects(rng, rotated=True)
    last = np.arange(len(truth)) == len(truth) - 1
    ignored = torch.tensor(last & (rng.random() < 0.3))
    return DetDataSample(
        pred_instances=found, gt_instances=truth[~ignored], ignored_instances=truth[ignored]
    )


def scene(rng: np.random.Generator) -> DataSample:
    label = int(rng.integers(3))
    scores = torch.tensor(rng.random(3) + 0.6 * np.eye(3)[label], dtype=torch.float32)
    scores = scores / scores.sum()
    sample = DataSample().set_gt_label(label).set_pred_score(scores)
    return sample.set_pred_label(scores.argmax())


def label_map(rng: np.random.Generator, classes: int = 3) -> SegDataSample:
    true = np.zeros((SIZE, SIZE), int)
    for label in (1, 2):
        x, y = rng.integers(0, 40, 2)
        true[y : y + 20, x : x + 20] = label % classes
    logits = rng.normal(size=(classes, SIZE, SIZE)) + 3 * np.eye(classes)[true].transpose(2, 0, 1)
    true[:2] = 255
    logits = torch.tensor(logits, dtype=torch.float32)
    return SegDataSample(
        gt_sem_seg=PixelData(data=torch.tensor(true)[None]),
        pred_sem_seg=PixelData(data=logits.argmax(0, keepdim=True)),
        seg_logits=PixelData(data=logits),
    )


def change(rng: np.random.Generator) -> SegDataSample:
    sample = label_map(rng, 2)
    sample.set_metainfo(dict(img_path2='second'))
    return sample


def all_tasks(rng: np.random.Generator) -> DetDataSample:
    """Return a sample of the multi-task model, without masks."""
    sample = DetDataSample(metainfo=dict(dataset='sota' if rng.random() < 0.5 else 'fast'))
    maps = label_map(rng)
    sample.gt_sem_seg = PixelData(sem_seg=maps.gt_sem_seg.data)
    sample.pred_sem_seg = PixelData(sem_seg=maps.pred_sem_seg.data)
    sample.pred_rotated_instances, sample.gt_rotated_instances = objects(rng, rotated=True)
    return sample


NAMED = dict(classes=CLASSES)
OF_DATASETS = {
    'datasets': {name: dict(NAMED, tasks=('semantic', 'rotated')) for name in ('sota', 'fast')}
}
WITH_BACKGROUND = dict(classes=('Background', *CLASSES[1:]))
KINDS: dict[str, tuple[Callable, Callable, dict]] = {
    'classification': (scene, ClassificationMetric, NAMED),
    'horizontal detection': (upright, DetectionMetric, NAMED),
    'rotated detection': (rotated, RotatedMetric, NAMED),
    'segmentation': (label_map, SegmentationMetric, WITH_BACKGROUND),
    'change detection': (change, ChangeMetric, dict(classes=('unchanged', 'changed'))),
    'multi-task': (all_tasks, MultiTaskMetric, OF_DATASETS),
}


def samples_of(kind: str, folder: Path, number: int = 12) -> list[BaseDataElement]:
    """Return tested samples of a kind, whose images are in ``folder``."""
    rng = np.random.default_rng(3)
    samples = []
    for index in range(number):
        sample = KINDS[kind][0](rng)
        path = str(folder / f'{index}&.png')
        cv2.imwrite(path, rng.integers(60, 160, (SIZE, SIZE, 3), dtype=np.uint8))
        sample.set_metainfo(dict(img_path=path, img_id=index, ori_shape=(SIZE, SIZE)))
        if 'img_path2' in sample:
            sample.set_metainfo(dict(img_path2=path))
        samples.append(sample)
    return samples


def report(kind: str, folder: Path) -> tuple[str, dict[str, float], ReportHook]:
    """Return the page of a kind's samples, the content of ``metrics.json``, and the hook."""
    samples, (_, metric_type, meta) = samples_of(kind, folder), KINDS[kind]
    metric = metric_type()
    metric.dataset_meta = meta
    metric.process(None, [sample.to_dict() for sample in samples])
    metrics = metric.evaluate(len(samples))
    runner = SimpleNamespace(
        test_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=meta)),
        hooks=[],
        cfg=SimpleNamespace(filename='<config>.py', get=lambda key: None),
        experiment_name=kind,
        logger=SimpleNamespace(info=print),
    )
    hook = ReportHook(str(folder))
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, None, samples[:5])
    hook.after_test_iter(runner, 1, None, samples[5:])
    hook.after_test_epoch(runner, metrics)
    written = json.loads(json_text(metrics, default=float))
    return (folder / 'report.html').read_text(), written, hook
