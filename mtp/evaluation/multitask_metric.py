"""Evaluation of all tasks of all data sets in one pass over a validation loader."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO
from mmdet.structures.bbox import get_box_tensor
from mmengine.evaluator import BaseMetric
from mmseg.evaluation.metrics import IoUMetric

from mtp.evaluation.coco_metric import coco_precision, defined_mean
from mtp.evaluation.mask_overlaps import encode_masks
from mtp.evaluation.rotated_metric import (
    RotatedImage,
    mean_angle_error,
    mean_of_classes,
    per_class,
    rotated_ap,
)
from mtp.evaluation.tables import SHOWN_HEAD, SHOWN_SCORE, count_shown, log_figures
from mtp.registry import METRICS
from mtp.sample_fields import IGNORED, label_table


class TaskMetric(ABC):
    """Metric of one task: reduces each image, and computes figures from all reduced images.

    Attributes:
        figures: names of the figures of a data set that :meth:`evaluate` returns, in the order of
            the table's columns.
        averaged: names of those that enter the average over all tasks; they are in percent.
    """

    figures: tuple[str, ...]
    averaged: tuple[str, ...] = ()

    @abstractmethod
    def reduce(self, sample: dict, num_classes: int) -> Any:
        """Reduce an image to what the metric needs; the result is sent to another process.

        Args:
            sample: ``DetDataSample`` as a dict, with ground truth and prediction.
            num_classes: number of classes of the data set, without background.
        """

    @abstractmethod
    def evaluate(self, images: list, num_classes: int) -> dict[str, Any]:
        """Return the figures of a data set, given its reduced images.

        A figure is a number, or a sequence of one number for each class in label order, perhaps
        followed by one for the background. Counts of a class are integers: they are shown only.
        """


@METRICS.register_module()
class MultiTaskMetric(BaseMetric):
    """mIoU, COCO box and mask AP, and rotated mAP of each data set, all in percent.

    - ``<data set>/semantic/mIoU``: mean IoU over those classes, and background, that occur in
      ground truth or prediction; pixels labelled 255 are ignored (mmseg's ``IoUMetric``).
    - ``<data set>/instance/bbox_mAP`` and ``segm_mAP``: COCO AP over IoU 0.50:0.95, at most 100
      objects of a class per image (pycocotools' definition, computed by faster-coco-eval). A data
      set without masks has no ``segm_mAP``.
    - ``<data set>/rotated/mAP``: VOC07 11-point AP at rotated IoU 0.5, mean over the classes that
      occur in the ground truth (mmrotate's definition for DOTA); ``mAP_75``: the same at IoU 0.75;
      ``mean_angle_error``: mean of the boxes matched at IoU 0.5, degrees.
    - ``<data set>/semantic/mIoU_without_background``: the mean IoU without the background.
    - ``<data set>/<task>/<class>/<figure>``: figures of one class.
    - ``<data set>/<task>/<figure>``: figures of further tasks, in the units of their metrics.
    - ``average``: mean of mIoU, segm_mAP and rotated mAP over the data sets: nine numbers for
      three data sets.

    A figure is undefined if the ground truth has no object: it is nan and left out of the average.
    Data sets, classes and tasks are those of ``dataset_meta['datasets']``. Each process immediately
    reduces its images to counts, boxes and run lengths. An image counts once, however many
    processes share the loader.

    Args:
        tasks: config of a :class:`TaskMetric` for each further task, by the task's name.
        kwargs: arguments of :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: an image has labels for a task that has no metric, or for one that the model did
            not predict.
    """

    default_prefix = ''  # the names are complete; mmengine warns if it is None

    def __init__(self, tasks: dict[str, dict] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        further = {task: METRICS.build(metric) for task, metric in (tasks or {}).items()}
        self.tasks: dict[str, TaskMetric] = TASKS | further

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Reduce the samples of a batch (dicts of ``DetDataSample``) to what the metrics need."""
        for sample in data_samples:
            meta = self.dataset_meta['datasets'][sample['dataset']]
            result = dict(dataset=sample['dataset'], img_id=sample['img_id'])
            for task in meta['tasks']:
                if task not in self.tasks:
                    raise ValueError(
                        f'the data set {sample["dataset"]!r} has labels for the task {task!r}, '
                        f'which has no metric: give one in val_evaluator.tasks.{task}'
                    )
                if f'pred_{label_table()[task].name}' not in sample:
                    raise ValueError(
                        f'{sample["img_path"]}: the data set {sample["dataset"]!r} has labels for '
                        f'the task {task!r}, but the model predicted none: add the task to the '
                        "model, or leave it out of the data set's `tasks`"
                    )
                result[task] = self.tasks[task].reduce(sample, len(meta['classes']))
            self.results.append(result)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Compute the metrics of the collected results, and print them as a table."""
        # The sampler repeats some images, so that all processes have equally many.
        images = {(result['dataset'], result['img_id']): result for result in results}
        grouped = defaultdict(list)
        for result in images.values():
            grouped[result['dataset']].append(result)
        metrics: dict[str, float] = {}
        of_classes: dict[str, dict[str, Sequence]] = defaultdict(dict)
        for name, group in grouped.items():
            meta = self.dataset_meta['datasets'][name]
            for task in meta['tasks']:
                figures = self.tasks[task].evaluate(
                    [result[task] for result in group], len(meta['classes'])
                )
                of_classes[name] |= {
                    f'{task}\n{key}': values
                    for key, values in figures.items()
                    if isinstance(values, Sequence)
                }
                metrics |= _named(f'{name}/{task}', figures, (*meta['classes'], 'background'))
        averaged = columns(self.tasks, 'averaged')
        metrics['average'] = _mean(
            value for key, value in metrics.items() if key.endswith(averaged)
        )
        for name in grouped:
            _log_classes(name, self.dataset_meta['datasets'][name]['classes'], of_classes[name])
        heads = columns(self.tasks, 'figures')
        log_figures(
            f'{len(images)} images evaluated, in percent and degrees:',
            ('data set', *(head.replace('/', '\n') for head in heads)),
            [(name, *(metrics.get(f'{name}/{head}') for head in heads)) for name in grouped],
            {f'average of {", ".join(averaged)}': metrics['average']},
        )
        return metrics


def _named(prefix: str, figures: dict[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """Return the figures of a data set and of its classes by their names in ``metrics.json``."""
    named = {}
    for key, value in figures.items():
        if not isinstance(value, Sequence):
            named[f'{prefix}/{key}'] = value
        elif not all(isinstance(one, int) for one in value):
            named |= {f'{prefix}/{name}/{key}': one for name, one in zip(classes, value)}
    return named


def _log_classes(dataset: str, classes: Sequence[str], found: dict[str, Sequence]) -> None:
    """Log the figures of a data set's classes, if any metric gives them."""
    if found:
        names = [*classes, 'background'][: max(map(len, found.values()))]
        rows = zip_longest(names, *found.values())
        log_figures(f'{dataset}, in percent and degrees:', ('class', *found), rows)


def columns(tasks: dict[str, TaskMetric], kind: str) -> tuple[str, ...]:
    """Return ``<task>/<figure>`` of all tasks; ``kind`` is an attribute of :class:`TaskMetric`."""
    return tuple(
        f'{task}/{figure}' for task, metric in tasks.items() for figure in getattr(metric, kind)
    )


def _mean(values: Iterable[float]) -> float:
    """Return the mean of the defined numbers, or nan if there are none."""
    return torch.tensor(list(values), dtype=torch.float64).nanmean().item()


class SemanticMetric(TaskMetric):
    """Mean IoU over classes and background; that without the background is not averaged."""

    figures = ('mIoU', 'mIoU_without_background')
    averaged = ('mIoU',)

    def reduce(self, sample: dict, num_classes: int) -> tuple[np.ndarray, ...]:
        """Count pixels per class and background: intersection, union, prediction, label."""
        areas = IoUMetric.intersect_and_union(
            sample['pred_sem_seg']['sem_seg'].squeeze(0).cpu(),
            sample['gt_sem_seg']['sem_seg'].squeeze(0).cpu(),
            num_classes + 1,
            ignore_index=IGNORED,
        )
        return tuple(area.numpy() for area in areas)

    def evaluate(self, images: list[tuple[np.ndarray, ...]], num_classes: int) -> dict[str, Any]:
        """Return the means, and the IoU of each class."""
        # counts in mmseg's float32 are inexact from 2^24 pixels on: sixteen images of 1024 x 1024
        areas = [torch.from_numpy(np.sum(kind, axis=0, dtype=np.float64)) for kind in zip(*images)]
        background, *ious = IoUMetric.total_area_to_metrics(*areas, ['mIoU'])['IoU'].tolist()
        has_objects = bool(areas[3][1:].any())  # otherwise to find none seems perfect
        return {
            'mIoU': 100 * _mean([background, *ious]) if has_objects else float('nan'),
            'mIoU_without_background': 100 * _mean(ious),
            'IoU': [100 * iou for iou in (*ious, background)],
        }


class InstanceMetric(TaskMetric):
    """COCO AP of boxes and masks; that of boxes is not averaged.

    A data set without masks, for which a model predicts none, has that of boxes alone.
    """

    figures = ('bbox_mAP', 'segm_mAP')
    averaged = ('segm_mAP',)

    def reduce(self, sample: dict, num_classes: int) -> dict:
        """Keep predicted and ground-truth objects as COCO entries."""
        found = sample['pred_instances']
        truth = _true_objects(sample['gt_instances'], iscrowd=0)
        if 'ignored_instances' in sample:
            truth += _true_objects(sample['ignored_instances'], iscrowd=1)
        boxes = get_box_tensor(found['bboxes']).cpu().numpy()
        if masked := 'masks' in found:
            predicted = _objects(found, found['masks'].cpu().numpy(), boxes)
        else:
            predicted = _boxes(found, boxes)
        for entry, score in zip(predicted, found['scores'].tolist()):
            entry['score'] = score
        height, width = sample['ori_shape'][:2]
        return dict(
            image=dict(height=height, width=width),
            truth=truth,
            predicted=predicted,
            masked=masked,
        )

    def evaluate(self, images: list[dict], num_classes: int) -> dict[str, Any]:
        """Return the AP of boxes and that of masks, of all classes and of each."""
        truth = dict(
            images=[],
            annotations=[],
            categories=[dict(id=i, name=str(i)) for i in range(num_classes)],
        )
        predicted = []
        for number, image in enumerate(images):
            truth['images'].append(dict(image['image'], id=number))
            for entry in image['truth']:
                truth['annotations'].append(
                    dict(entry, id=len(truth['annotations']) + 1, image_id=number)
                )
            predicted += [dict(entry, image_id=number) for entry in image['predicted']]
        coco = COCO(truth)
        counts = Counter(e['category_id'] for e in truth['annotations'] if not e['iscrowd'])
        shown = Counter(e['category_id'] for e in predicted if e['score'] >= SHOWN_SCORE)
        figures: dict[str, Any] = {
            'objects': [counts[label] for label in range(num_classes)],
            SHOWN_HEAD: [shown[label] for label in range(num_classes)],
        }
        for kind in ('bbox', 'segm') if images[0]['masked'] else ('bbox',):
            precision = coco_precision(
                coco, predicted, kind, [100], range(num_classes), sizes=False
            )
            figures[f'{kind}_mAP'] = 100 * defined_mean(precision)
            figures[f'{kind}_AP'] = [
                100 * defined_mean(precision[:, :, k]) for k in range(num_classes)
            ]
        return figures


def _true_objects(instances: dict, **common: int) -> list[dict]:
    # An annotated box may be smaller than its mask.
    extent = instances['masks'].get_bboxes('hbox').numpy()
    return _objects(instances, instances['masks'].masks, extent, **common)


def _objects(instances: dict, masks: np.ndarray, extent: np.ndarray, **common: int) -> list[dict]:
    """Return objects as COCO entries; ``extent`` are boxes ``(N, 4)`` that contain the masks."""
    runs, areas = encode_masks(masks, extent)
    boxes = get_box_tensor(instances['bboxes']).tolist()
    return [
        dict(
            category_id=label,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            segmentation=rle,
            area=area,
            **common,
        )
        for label, (x1, y1, x2, y2), rle, area in zip(
            instances['labels'].tolist(), boxes, runs, areas
        )
    ]


def _boxes(instances: dict, boxes: np.ndarray) -> list[dict]:
    """Return objects without masks as COCO entries."""
    return [
        dict(category_id=label, bbox=[x1, y1, x2 - x1, y2 - y1])
        for label, (x1, y1, x2, y2) in zip(instances['labels'].tolist(), boxes.tolist())
    ]


class RotatedTaskMetric(TaskMetric):
    """VOC07 AP of rotated boxes at IoU 0.5; that at 0.75 and the angle's error are not averaged."""

    figures = ('mAP', 'mAP_75', 'mean_angle_error')
    averaged = ('mAP',)

    def reduce(self, sample: dict, num_classes: int) -> RotatedImage:
        """Keep predicted and ground-truth boxes."""
        return RotatedImage.from_instances(
            sample['pred_rotated_instances'], sample['gt_rotated_instances']
        )

    def evaluate(self, images: list[RotatedImage], num_classes: int) -> dict[str, Any]:
        """Return the figures of the classes in the ground truth, and those of each."""
        at_50, at_75 = (rotated_ap(images, num_classes, threshold) for threshold in (0.5, 0.75))
        of_classes = per_class(at_50, at_75)
        shown = count_shown((image.scores, image.labels) for image in images)
        return {
            'mAP': 100 * mean_of_classes(at_50, float('nan')),
            'mAP_75': 100 * mean_of_classes(at_75, float('nan')),
            'mean_angle_error': mean_angle_error(at_50),
            SHOWN_HEAD: [shown[label] for label in range(num_classes)],
            'AP50': [100 * value for value in of_classes['AP50']],
            'AP75': [100 * value for value in of_classes['AP75']],
            'angle_error': of_classes['angle_error'],
        }


TASKS = {'semantic': SemanticMetric(), 'instance': InstanceMetric(), 'rotated': RotatedTaskMetric()}
