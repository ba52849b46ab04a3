"""The comparisons of ``evaluate.py``: implementations of each metric, synthetic predictions."""

import copy
from collections.abc import Callable, Iterator
from itertools import starmap
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from faster_coco_eval import COCO
from mmrotate.evaluation.functional import mean_ap
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO as PyCOCO
from pycocotools.cocoeval import COCOeval

from mtp.evaluation.coco_metric import coco_precision, mean_precision
from mtp.evaluation.mask_overlaps import encode_masks
from mtp.evaluation.rotated_metric import RotatedImage, mean_of_classes, rotated_ap

SIZE, CLASSES, OBJECTS = 1024, 20, 25  # pixels; ground-truth objects per image
ENCODED = 40  # images whose masks are encoded: as whole bitmaps they take 3 ms each
FIGURES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')

Figures = dict[str, float]
Form = Callable[[], Any]


def comparisons(
    images: list[RotatedImage],
) -> Iterator[tuple[str, dict[str, Form], Callable[[Any, Any], float]]]:
    """Yield the title of a comparison, its implementations, and its measure of difference."""
    yield 'rotated mAP', rotated_forms(images), farthest
    truth, predicted = as_coco(images)
    for kind, title in (('bbox', 'COCO boxes'), ('segm', 'COCO masks')):
        yield title, coco_forms(truth, predicted, kind), farthest
    masks = [painted(image.boxes) for image in images[:ENCODED]]
    yield (
        'run lengths',
        dict(
            mtp=lambda: lambda: [encode_masks(*one) for one in masks],
            pycocotools=lambda: lambda: [encode_whole(one) for one, _ in masks],
        ),
        unequal,
    )


def farthest(found: Figures, expected: Figures) -> float:
    assert found.keys() <= expected.keys()
    return max(abs(found[key] - expected[key]) for key in found)


def unequal(found: list, expected: list) -> float:
    """Return the share of masks whose run lengths or areas differ, 0 to 1."""
    pairs = [
        (one, other)
        for image, same in zip(found, expected)
        for one, other in zip(zip(*image), zip(*same), strict=True)
    ]
    return sum(one != other for one, other in pairs) / len(pairs)


def made_up(rng: np.random.Generator, detections: int) -> RotatedImage:
    """Make random ground truth and predictions, four in five of them near a true object."""

    def boxes(count: int) -> np.ndarray:
        return np.column_stack(
            [
                rng.uniform(0, SIZE, (count, 2)),
                rng.uniform(16, 128, count),
                rng.uniform(12, 64, count),
                rng.uniform(-np.pi / 2, np.pi / 2, count),
            ]
        )

    true, true_labels = boxes(OBJECTS), rng.integers(CLASSES, size=OBJECTS)
    of = rng.integers(OBJECTS, size=detections)
    near = rng.random(detections) < 0.8
    moved = true[of] * (1 + rng.normal(0, [0, 0, 0.1, 0.1, 0.1], (detections, 5)))
    moved[:, :2] += rng.normal(0, 3, (detections, 2))
    return RotatedImage(
        np.where(near[:, None], moved, boxes(detections)).astype(np.float32),
        rng.random(detections, np.float32),
        np.where(near, true_labels[of], rng.integers(CLASSES, size=detections)),
        true.astype(np.float32),
        true_labels,
        np.zeros(OBJECTS, bool),
    )


def rotated_forms(images: list[RotatedImage]) -> dict[str, Form]:
    found = [
        [
            np.column_stack([image.boxes, image.scores])[image.labels == label]
            for label in range(CLASSES)
        ]
        for image in images
    ]
    truth = [
        dict(
            bboxes=image.true_boxes,
            labels=image.true_labels,
            bboxes_ignore=np.zeros((0, 5), np.float32),
            labels_ignore=np.zeros(0, int),
        )
        for image in images
    ]
    here = SimpleNamespace(
        Pool=lambda _: SimpleNamespace(
            starmap=lambda *args: list(starmap(*args)), close=lambda: None
        )
    )
    overlaps: list[torch.Tensor] = []
    box_iou_rotated = mean_ap.box_iou_rotated

    def recorded(*boxes: torch.Tensor) -> torch.Tensor:
        overlaps.append(box_iou_rotated(*boxes))
        return overlaps[-1]

    def figures(mean: float, of_classes: list[dict]) -> Figures:
        return {'mAP': mean} | {
            str(label): one['ap'].item() for label, one in enumerate(of_classes)
        }

    def ours() -> Figures:
        of_classes = rotated_ap(images, CLASSES)
        return figures(mean_of_classes(of_classes, 0.0), of_classes)

    def mmrotate(**replaced: Any) -> Figures:
        with mock.patch.multiple(mean_ap, **replaced):
            return figures(*mean_ap.eval_rbbox_map(found, truth, logger='silent'))

    def one_process() -> Callable[[], Figures]:
        overlaps.clear()
        return lambda: mmrotate(get_context=lambda _: here, box_iou_rotated=recorded)

    def free_overlaps() -> Callable[[], Figures]:
        rest = iter(overlaps)
        return lambda: mmrotate(
            get_context=lambda _: here, box_iou_rotated=lambda *boxes: next(rest)
        )

    return {
        'mtp': lambda: ours,
        'mmrotate, one process': one_process,
        'mmrotate, overlaps for nothing': free_overlaps,
        'mmrotate, pool of 4': lambda: lambda: mmrotate(get_context=mean_ap.get_context),
    }


def painted(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint ellipses in rotated boxes: full-size masks ``(N, H, W)`` and the boxes around them."""
    extent = extents(boxes)
    masks = np.zeros((len(boxes), SIZE, SIZE), bool)
    for mask, box, (x1, y1, x2, y2) in zip(masks, boxes, extent.astype(int)):
        mask[y1 : y2 + 1, x1 : x2 + 1] = ellipse(box, x1, y1, x2, y2)[: SIZE - y1, : SIZE - x1]
    return masks, extent


def extents(boxes: np.ndarray) -> np.ndarray:
    """Return x1, y1, x2, y2 around the ellipses in rotated boxes, clipped to the image."""
    x, y, w, h, angle = boxes.astype(np.float64).T
    half_x = np.hypot(w * np.cos(angle), h * np.sin(angle)) / 2
    half_y = np.hypot(w * np.sin(angle), h * np.cos(angle)) / 2
    return np.stack([x - half_x, y - half_y, x + half_x, y + half_y], 1).clip(0, SIZE)


def ellipse(box: np.ndarray, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    x, y, w, h, angle = box.tolist()
    dx = np.arange(x1, x2 + 1) + 0.5 - x
    dy = (np.arange(y1, y2 + 1) + 0.5 - y)[:, None]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return (along / w) ** 2 + (across / h) ** 2 < 0.25


def encode_whole(masks: np.ndarray) -> tuple[list[dict], list[float]]:
    runs = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    return runs, [float(coco_mask.area(run)) for run in runs]


def as_coco(images: list[RotatedImage]) -> tuple[dict, list[dict]]:
    """Return the objects as COCO ground truth and COCO results, with boxes and masks."""
    truth = dict(
        images=[dict(id=number, height=SIZE, width=SIZE) for number in range(len(images))],
        annotations=[],
        categories=[dict(id=i, name=str(i)) for i in range(CLASSES)],
    )
    predicted = []

    def objects(number: int, boxes: np.ndarray, labels: np.ndarray) -> list[dict]:
        masks, extent = painted(boxes)
        runs, areas = encode_masks(masks, extent)
        extent[:, 2:] -= extent[:, :2]
        return [
            dict(image_id=number, category_id=label, bbox=box, segmentation=run, area=area)
            for label, box, run, area in zip(labels.tolist(), extent.tolist(), runs, areas)
        ]

    for number, image in enumerate(images):
        for entry in objects(number, image.true_boxes, image.true_labels):
            truth['annotations'].append(dict(entry, id=len(truth['annotations']) + 1, iscrowd=0))
        for entry, score in zip(objects(number, image.boxes, image.labels), image.scores.tolist()):
            predicted.append(dict(entry, score=score))
    return truth, predicted


def coco_forms(truth: dict, predicted: list[dict], kind: str) -> dict[str, Form]:
    other = dict(bbox='segmentation', segm='bbox')[kind]
    predicted = [
        {key: value for key, value in entry.items() if key not in (other, 'area')}
        for entry in predicted
    ]

    def ours(sizes: bool) -> Callable[[], Figures]:
        own = copy.deepcopy((truth, predicted))  # both libraries modify their arguments

        def call() -> Figures:
            numbers = (1, 10, 100) if sizes else (100,)
            precision = coco_precision(COCO(own[0]), own[1], kind, numbers, range(CLASSES), sizes)
            everywhere, *of_sizes = np.moveaxis(precision[..., -1], -1, 0)
            parts = (everywhere, everywhere[0], everywhere[5], *of_sizes)
            return dict(zip(FIGURES, map(mean_precision, parts)))

        return call

    def pycocotools() -> Callable[[], Figures]:
        own = copy.deepcopy((truth, predicted))

        def call() -> Figures:
            coco = PyCOCO()
            coco.dataset = own[0]
            coco.createIndex()
            evaluation = COCOeval(coco, coco.loadRes(own[1]), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            return dict(zip(FIGURES, evaluation.stats.tolist()))

        return call

    return {
        'mtp': lambda: ours(sizes=True),
        'mtp, without sizes': lambda: ours(sizes=False),
        'pycocotools': pycocotools,
    }
