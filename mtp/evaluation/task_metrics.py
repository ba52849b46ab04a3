"""Metrics of the tasks of a pretraining: semantic and instance segmentation, rotated boxes."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO
from mmdet.structures.bbox import get_box_tensor
from mmseg.evaluation.metrics import IoUMetric

from mtp.evaluation.coco_metric import coco_precision, defined_mean
from mtp.evaluation.cut_scenes import Scene, Scenes, rotated_boxes
from mtp.evaluation.mask_overlaps import encode_masks
from mtp.evaluation.rotated_metric import (
    RotatedImage,
    mean_angle_error,
    mean_of_classes,
    per_class,
    rotated_ap,
)
from mtp.evaluation.tables import SHOWN_HEAD, SHOWN_SCORE, count_shown
from mtp.evaluation.tiles import Detections, detections_of, merge_tiles, no_detections
from mtp.sample_fields import IGNORED

MAX_OBJECTS = 100  # of a class in an image, that COCO judges


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


class SceneTaskMetric(TaskMetric):
    """Metric of a task that judges scenes too, put together from the tiles they were cut into."""

    @abstractmethod
    def reduce_tile(self, sample: dict, num_classes: int, scenes: Scenes, tile: str) -> Any:
        """Reduce a tile to what it says of its scene; the result is sent to another process.

        Args:
            sample, num_classes: as for :meth:`reduce`.
            scenes: scenes of the split.
            tile: name of the tile.
        """

    @abstractmethod
    def merge(self, scene: Scene, tiles: dict[str, Any], num_classes: int) -> Any:
        """Merge what tiles say of their scene to what :meth:`reduce` returns for an image.

        Args:
            scene: the scene.
            tiles: what :meth:`reduce_tile` returned, by tile; empty if no tile was shown.
            num_classes: as for :meth:`reduce`.
        """


def mean(values: Iterable[float]) -> float:
    """Return the mean of the defined numbers, or nan if there are none."""
    return torch.tensor(list(values), dtype=torch.float64).nanmean().item()


class SemanticMetric(SceneTaskMetric):
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

    def reduce_tile(
        self, sample: dict, num_classes: int, scenes: Scenes, tile: str
    ) -> tuple[np.ndarray, ...]:
        """Count the pixels for which the tile stands."""
        true = sample['gt_sem_seg']['sem_seg']
        stands = torch.from_numpy(scenes.pixels(tile, sample, true.shape[-2:]))
        judged = dict(sem_seg=true.masked_fill(~stands.to(true.device), IGNORED))
        return self.reduce(dict(sample, gt_sem_seg=judged), num_classes)

    def merge(
        self, scene: Scene, tiles: dict[str, tuple[np.ndarray, ...]], num_classes: int
    ) -> tuple[np.ndarray, ...]:
        """Add the pixels of all tiles; a scene of which no tile was shown has none."""
        nothing = (np.zeros(num_classes + 1),) * 4
        return tuple(np.add.reduce(kind) for kind in zip(nothing, *tiles.values()))

    def evaluate(self, images: list[tuple[np.ndarray, ...]], num_classes: int) -> dict[str, Any]:
        """Return the means, and the IoU of each class."""
        # counts in mmseg's float32 are inexact from 2^24 pixels on: sixteen images of 1024 x 1024
        areas = [torch.from_numpy(np.sum(kind, axis=0, dtype=np.float64)) for kind in zip(*images)]
        background, *ious = IoUMetric.total_area_to_metrics(*areas, ['mIoU'])['IoU'].tolist()
        has_objects = bool(areas[3][1:].any())  # otherwise to find none seems perfect
        return {
            'mIoU': 100 * mean([background, *ious]) if has_objects else float('nan'),
            'mIoU_without_background': 100 * mean(ious),
            'IoU': [100 * iou for iou in (*ious, background)],
        }


class InstanceMetric(SceneTaskMetric):
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
            most=MAX_OBJECTS,
        )

    def reduce_tile(self, sample: dict, num_classes: int, scenes: Scenes, tile: str) -> Detections:
        """Keep the boxes."""
        return detections_of(sample['pred_instances'])

    def merge(self, scene: Scene, tiles: dict[str, Detections], num_classes: int) -> dict:
        """Merge the boxes; masks are judged in tiles only."""
        boxes, scores, labels = _merged(tiles, 4)
        predicted = _boxes(dict(labels=labels), boxes.numpy())
        for entry, score in zip(predicted, scores.tolist()):
            entry['score'] = score
        true = _boxes(dict(labels=torch.from_numpy(scene.labels)), scene.boxes)
        for entry, ignored in zip(true, scene.ignored.tolist()):
            entry |= dict(area=entry['bbox'][2] * entry['bbox'][3], iscrowd=int(ignored))
        height, width = scene.size
        return dict(
            image=dict(height=height, width=width),
            truth=true,
            predicted=predicted,
            masked=False,
            most=max(MAX_OBJECTS, len(predicted)),  # a scene has any number of objects
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
        most = max(image['most'] for image in images)
        for kind in ('bbox', 'segm') if images[0]['masked'] else ('bbox',):
            precision = coco_precision(
                coco, predicted, kind, [most], range(num_classes), sizes=False
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


class RotatedTaskMetric(SceneTaskMetric):
    """VOC07 AP of rotated boxes at IoU 0.5; that at 0.75 and the angle's error are not averaged."""

    figures = ('mAP', 'mAP_75', 'mean_angle_error')
    averaged = ('mAP',)

    def reduce(self, sample: dict, num_classes: int) -> RotatedImage:
        """Keep predicted and ground-truth boxes."""
        return RotatedImage.from_instances(
            sample['pred_rotated_instances'], sample['gt_rotated_instances']
        )

    def reduce_tile(self, sample: dict, num_classes: int, scenes: Scenes, tile: str) -> Detections:
        """Keep the boxes."""
        return detections_of(sample['pred_rotated_instances'])

    def merge(self, scene: Scene, tiles: dict[str, Detections], num_classes: int) -> RotatedImage:
        """Merge the boxes."""
        boxes, scores, labels = (values.numpy() for values in _merged(tiles, 5))
        true_boxes = rotated_boxes(scene).numpy()
        return RotatedImage(boxes, scores, labels, true_boxes, scene.labels, scene.ignored)

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


def _merged(tiles: dict[str, Detections], sides: int) -> Detections:
    """Merge the boxes of a scene's tiles, ``(N, sides)``; none where no tile was shown."""
    return next(iter(merge_tiles(tiles).values()), no_detections(sides))
