"""COCO average precision with faster-coco-eval: pycocotools' figures in less time."""

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmengine.evaluator import BaseMetric

from mtp.evaluation.tables import SHOWN_HEAD, count_shown, log_figures
from mtp.registry import METRICS


def coco_precision(
    truth: COCO,
    predicted: list[dict],
    kind: str,
    max_detections: Sequence[int],
    categories: Sequence[int],
    sizes: bool,
) -> np.ndarray:
    """Compute the precision of predictions at 101 recalls.

    Args:
        truth: ground truth: images, classes and objects.
        predicted: COCO's result entries: ``image_id``, ``category_id``, ``score``, and ``bbox``
            or ``segmentation``.
        kind: ``'bbox'`` to compare boxes, ``'segm'`` to compare masks.
        max_detections: largest numbers of predictions per class and image, ascending.
        categories: ids of the evaluated classes.
        sizes: whether to evaluate small, medium and large objects separately, too.

    Returns:
        ndarray: precision ``(10, 101, C, A, D)``, 0..1, or -1 without ground truth. The axes are
        IoU 0.50, 0.55, ..., 0.95; recalls; classes; all objects and, with ``sizes``, small, medium
        and large ones; and ``max_detections``.
    """
    wanted = dict(bbox='bbox', segm='segmentation')[kind]
    with _no_collection():
        # given both, loadRes would use the boxes' areas for the masks
        entries = [
            {key: entry[key] for key in ('image_id', 'category_id', 'score', wanted)}
            for entry in predicted
        ]
        # loadRes takes no empty list
        found = truth.loadRes(entries) if entries else COCO(dict(truth.dataset, annotations=[]))
        evaluation = COCOeval_faster(truth, found, kind, print_function=lambda *_: None)
        params = evaluation.params
        params.maxDets, params.catIds = list(max_detections), list(categories)
        if not sizes:
            params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval['precision']


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector.

    Millions of short-lived dicts would trigger it repeatedly during the evaluation, although none
    of them survives it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def mean_precision(precision: np.ndarray) -> float:
    """Return the mean of a part of :func:`coco_precision`, or -1 without ground truth."""
    defined = precision[precision > -1]
    return defined.mean().item() if defined.size else -1.0


def defined_mean(precision: np.ndarray) -> float:
    """Return :func:`mean_precision`, or nan without ground truth."""
    mean = mean_precision(precision)
    return mean if mean >= 0 else float('nan')


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """COCO AP of boxes: the keys and figures of mmdet's ``CocoMetric``, but not rounded.

    The ground truth is what the reader took: ``instances`` in the meta information of a sample,
    which ``meta_keys`` of ``PackDetInputs`` lists. All figures are 0..1, 0 without predictions, or
    -1 without ground truth. ``coco/<class>/AP`` and ``AP50`` are those of one class, nan without
    ground truth.

    Args:
        ann_file: not used; configs of release 0.1 give it.
        collect_device, prefix: arguments of :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: a sample has no ``instances``.
    """

    default_prefix = 'coco'
    # Largest numbers of predictions of a class in an image: of mAP, and of the other figures.
    max_detections: Sequence[int] = (100, 1000)

    def __init__(
        self,
        ann_file: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep predicted and ground-truth objects of a batch as COCO entries."""
        for sample in data_samples:
            if 'instances' not in sample:
                raise ValueError(
                    f'{sample["img_path"]} has no ground truth: add "instances" to meta_keys of '
                    'PackDetInputs in the pipeline of validation and test'
                )
            found = sample['pred_instances']
            boxes = found['bboxes'].cpu().numpy().astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            predicted = [
                dict(category_id=label, bbox=box, score=score)
                for label, box, score in zip(
                    found['labels'].tolist(), boxes.tolist(), found['scores'].tolist()
                )
            ]
            truth = [_entry(instance) for instance in sample['instances']]
            self.results.append(dict(img_id=sample['img_id'], truth=truth, predicted=predicted))

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Compute the figures, and print them as a table."""
        categories = range(len(self.dataset_meta['classes']))
        truth: dict[str, list[dict]] = dict(
            images=[],
            annotations=[],
            categories=[dict(id=label, name=str(label)) for label in categories],
        )
        predicted: list[dict] = []
        # equal scores are ranked by their images
        order = sorted(
            results, key=lambda result: (isinstance(result['img_id'], str), result['img_id'])
        )
        for number, result in enumerate(order):
            truth['images'].append(dict(id=number))
            for entry in result['truth']:
                truth['annotations'].append(
                    dict(entry, id=len(truth['annotations']) + 1, image_id=number)
                )
            predicted += [dict(entry, image_id=number) for entry in result['predicted']]
        precision = coco_precision(
            COCO(truth),
            predicted,
            'bbox',
            self.max_detections,
            categories,
            sizes=True,
        )
        everywhere, small, medium, large = np.moveaxis(precision[..., 1], -1, 0)
        # as in mmdet, only this one counts the smaller number of predictions
        parts = dict(
            mAP=precision[:, :, :, 0, 0],
            mAP_50=everywhere[0],
            mAP_75=everywhere[5],
            mAP_s=small,
            mAP_m=medium,
            mAP_l=large,
        )
        metrics = {f'bbox_{key}': mean_precision(part) for key, part in parts.items()}
        of_classes = [
            (name, defined_mean(parts['mAP'][:, :, k]), defined_mean(parts['mAP_50'][:, k]))
            for k, name in enumerate(self.dataset_meta['classes'])
        ]
        self._log(results, truth['annotations'], of_classes, metrics)
        for name, *values in of_classes:
            metrics |= {f'{name}/{key}': value for key, value in zip(('AP', 'AP50'), values)}
        return metrics

    def _log(
        self,
        results: list[dict],
        truth: list[dict],
        of_classes: list[tuple[str, float, float]],
        metrics: dict[str, float],
    ) -> None:
        objects = Counter(entry['category_id'] for entry in truth if not entry['iscrowd'])
        shown = count_shown(
            (
                np.array([entry['score'] for entry in result['predicted']]),
                np.array([entry['category_id'] for entry in result['predicted']]),
            )
            for result in results
        )
        log_figures(
            f'{len(results)} images evaluated, in percent:',
            ('class', 'objects', SHOWN_HEAD, 'AP', 'AP50'),
            [
                (name, objects[k], shown[k], 100 * precision, 100 * at_50)
                for k, (name, precision, at_50) in enumerate(of_classes)
            ],
            {
                f'{self.prefix}/{key}': 100 * value if value >= 0 else float('nan')
                for key, value in metrics.items()
            },
        )


def _entry(instance: dict) -> dict:
    """Return an object of a record as a COCO entry."""
    x1, y1, x2, y2 = instance['bbox']
    return dict(
        category_id=instance['bbox_label'],
        bbox=[x1, y1, x2 - x1, y2 - y1],
        area=instance['area'],
        iscrowd=instance['ignore_flag'],
    )
