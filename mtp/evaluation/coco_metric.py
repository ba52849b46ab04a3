"""COCO average precision with faster-coco-eval: pycocotools' figures in less time."""

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation import CocoMetric
from mmengine.fileio import get_local_path

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


@METRICS.register_module()
class DetectionMetric(CocoMetric):
    """mmdet's ``CocoMetric`` of boxes in a fraction of the time, with figures of each class.

    Keys and figures are the same (``coco/bbox_mAP``, ``coco/bbox_mAP_50``, ...), but not rounded,
    and 0 without predictions; all are 0..1, or -1 without ground truth. ``coco/<class>/AP`` and
    ``AP50`` are those of one class, nan without ground truth.

    Args:
        ann_file: COCO annotation file with the ground truth of the split.
        collect_device, prefix: arguments of :class:`mmengine.evaluator.BaseMetric`.
    """

    def __init__(
        self, ann_file: str, collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        with get_local_path(ann_file) as path:
            self._coco_api = COCO(path)

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Compute the figures, and print them as a table."""
        categories = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        predicted = []
        for _, found in results:
            boxes = found['bboxes'].astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            predicted += [
                dict(image_id=found['img_id'], category_id=categories[label], bbox=box, score=score)
                for box, score, label in zip(
                    boxes.tolist(), found['scores'].tolist(), found['labels'].tolist()
                )
            ]
        precision = coco_precision(
            self._coco_api, predicted, 'bbox', (100, 1000), categories, sizes=True
        )
        everywhere, small, medium, large = np.moveaxis(precision[..., 1], -1, 0)
        # as in mmdet, only this one counts 100 predictions per class
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
            (name, _defined(parts['mAP'][:, :, k]), _defined(parts['mAP_50'][:, k]))
            for k, name in enumerate(self.dataset_meta['classes'])
        ]
        self._log(results, categories, of_classes, metrics)
        for name, *values in of_classes:
            metrics |= {f'{name}/{key}': value for key, value in zip(('AP', 'AP50'), values)}
        return metrics

    def _log(
        self,
        results: list[tuple[dict, dict]],
        categories: list[int],
        of_classes: list[tuple[str, float, float]],
        metrics: dict[str, float],
    ) -> None:
        objects = Counter(
            entry['category_id']
            for entry in self._coco_api.dataset['annotations']
            if not entry.get('iscrowd')
        )
        shown = count_shown((found['scores'], found['labels']) for _, found in results)
        log_figures(
            f'{len(results)} images evaluated, in percent:',
            ('class', 'objects', SHOWN_HEAD, 'AP', 'AP50'),
            [
                (name, objects[category], shown[k], 100 * precision, 100 * at_50)
                for k, (category, (name, precision, at_50)) in enumerate(
                    zip(categories, of_classes)
                )
            ],
            {
                f'{self.prefix}/{key}': 100 * value if value >= 0 else float('nan')
                for key, value in metrics.items()
            },
        )


def _defined(precision: np.ndarray) -> float:
    mean = mean_precision(precision)
    return mean if mean >= 0 else float('nan')
