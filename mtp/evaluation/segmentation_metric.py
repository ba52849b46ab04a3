"""Metric of semantic segmentation: mIoU, and the figures of each class."""

import numpy as np
from mmseg.evaluation import IoUMetric
from torch import Tensor

from mtp.evaluation.label_maps import judge_labels, without_background
from mtp.evaluation.tables import log_figures
from mtp.registry import METRICS


@METRICS.register_module()
class SegmentationMetric(IoUMetric):
    """mmseg's ``IoUMetric`` with figures of each class, in percent.

    ``mIoU``, ``mAcc`` and ``aAcc`` are mmseg's. ``<class>/IoU`` is nan for a class that occurs
    neither in labels nor in predictions; such classes are left out of the means.
    ``mIoU_without_background`` leaves out the class called background. ``classes_without_labels``
    counts classes of which no pixel is labelled; if only one class is, ``mIoU`` is nan.

    Args:
        kwargs: arguments of mmseg's ``IoUMetric``.
    """

    default_prefix = ''  # the names are complete; mmengine warns if it is None

    def compute_metrics(self, results: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """Compute mmseg's figures from exact counts (its own sums are float32); print them."""
        if self.format_only:
            return super().compute_metrics(results)
        areas = [sum(part.double() for part in parts) for parts in zip(*results)]
        found = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
        names, labelled = self.dataset_meta['classes'], np.asarray(areas[3])
        ious = 100 * np.asarray(self.total_area_to_metrics(*areas, ['mIoU'])['IoU'])
        # rounded as in mmseg
        metrics = {
            key if key == 'aAcc' else f'm{key}': float(np.round(np.nanmean(values) * 100, 2))
            for key, values in found.items()
        }
        metrics |= without_background(names, ious)
        metrics['classes_without_labels'], says_something = judge_labels(names, labelled)
        if not says_something and 'mIoU' in metrics:
            metrics['mIoU'] = float('nan')
        share = 100 * labelled / max(labelled.sum(), 1)
        found.pop('aAcc')
        columns = [100 * np.asarray(values) for values in found.values()]
        log_figures(
            f'{len(results)} images evaluated, in percent:',
            ('class', 'of all pixels', *found),
            zip(names, share.tolist(), *(column.tolist() for column in columns)),
            metrics,
        )
        return metrics | {f'{name}/IoU': iou for name, iou in zip(names, ious.tolist())}
