"""Average precision as COCO defines it, by faster-coco-eval: pycocotools' figures, sooner."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation import CocoMetric
from mmengine.fileio import get_local_path

from mtp.registry import METRICS


def coco_precision(truth: COCO, predicted: list[dict], kind: str,
                   max_detections: Sequence[int], categories: Sequence[int]) -> np.ndarray:
    """Precision of predictions at 101 recalls.

    Args:
        truth: images, classes and objects.
        predicted: COCO's result entries: ``image_id``, ``category_id``, ``score``, and ``bbox``
            or ``segmentation``.
        kind: ``'bbox'`` or ``'segm'``, which of the two is compared.
        max_detections: how many predictions of a class and image count, rising numbers.
        categories: ids of the classes that count.

    Returns:
        ndarray: ``(10, 101, C, 4, D)``: IoU 0.50, 0.55, ..., 0.95; recalls; classes; areas (all,
        small, medium, large); numbers of detections. 0..1, and -1 where there is nothing to find.
    """
    wanted = dict(bbox='bbox', segm='segmentation')[kind]
    # given both, loadRes would take the boxes' areas for those of the masks
    found = truth.loadRes([
        {key: entry[key] for key in ('image_id', 'category_id', 'score', wanted)}
        for entry in predicted])
    evaluation = COCOeval_faster(truth, found, kind, print_function=lambda *_: None)
    evaluation.params.maxDets = list(max_detections)
    evaluation.params.catIds = list(categories)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval['precision']


def mean_precision(precision: np.ndarray) -> float:
    """Mean of a part of :func:`coco_precision`; -1 where there is nothing to find."""
    defined = precision[precision > -1]
    return defined.mean().item() if defined.size else -1.0


@METRICS.register_module()
class DetectionMetric(CocoMetric):
    """mmdet's ``CocoMetric`` of boxes in a fraction of the time.

    Keys and figures are the same (``coco/bbox_mAP``, ``coco/bbox_mAP_50``, ...), but not rounded.

    Args:
        ann_file: json file of COCO's form with the true boxes of the split.
        kwargs: ``collect_device`` and ``prefix``, as in mmdet.
    """

    def __init__(self, ann_file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        with get_local_path(ann_file) as path:
            self._coco_api = COCO(path)

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Figures, 0..1, -1 for those of which there is nothing to find; none without a box."""
        categories = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        predicted = []
        for _, found in results:
            boxes = found['bboxes'].astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            predicted += [
                dict(image_id=found['img_id'], category_id=categories[label], bbox=box, score=score)
                for box, score, label in zip(
                    boxes.tolist(), found['scores'].tolist(), found['labels'].tolist())]
        if not predicted:
            return {}
        precision = coco_precision(
            self._coco_api, predicted, 'bbox', self.proposal_nums, categories)
        everywhere, small, medium, large = np.moveaxis(precision[..., -1], -1, 0)
        # 100 predictions of a class for this one only: so do pycocotools and with it mmdet
        mean = precision[:, :, :, 0, self.proposal_nums.index(100)]
        parts = dict(mAP=mean, mAP_50=everywhere[0], mAP_75=everywhere[5], mAP_s=small,
                     mAP_m=medium, mAP_l=large)
        return {f'bbox_{key}': mean_precision(part) for key, part in parts.items()}
