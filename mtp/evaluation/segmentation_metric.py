"""Metric of semantic segmentation: mIoU, and the IoU of each class."""

from mmseg.evaluation import IoUMetric
from torch import Tensor

from mtp.registry import METRICS


@METRICS.register_module()
class SegmentationMetric(IoUMetric):
    """mmseg's ``IoUMetric`` with the IoU of each class among its figures, ``<class>/IoU``.

    It is in percent, or nan for a class that occurs neither in labels nor in predictions. Such
    classes are left out of the mean.

    Args:
        kwargs: arguments of mmseg's ``IoUMetric``.
    """

    default_prefix = ''  # the names are complete; mmengine warns if it is None

    def compute_metrics(self, results: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """Compute mmseg's figures from exact counts: its own sums are float32."""
        results = [tuple(areas.double() for areas in image) for image in results]
        metrics = super().compute_metrics(results)
        areas = (sum(of_images) for of_images in zip(*results))
        ious = self.total_area_to_metrics(*areas, ['mIoU'])['IoU']
        metrics.update(
            {
                f'{name}/IoU': 100 * float(iou)
                for name, iou in zip(self.dataset_meta['classes'], ious)
            }
        )
        return metrics
