"""Metric of scene classification: accuracy, and recall and precision of each class."""

import numpy as np
import torch
from mmpretrain.evaluation import Accuracy

from mtp.evaluation.tables import log_figures
from mtp.registry import METRICS


@METRICS.register_module()
class ClassificationMetric(Accuracy):
    """mmpretrain's ``Accuracy`` for any number of classes, with figures of each class.

    All are in percent. ``accuracy/top1`` and ``accuracy/top5`` are mmpretrain's; top-k accuracy of
    fewer than k classes is left out. ``accuracy/<class>/recall`` and ``precision`` judge the class
    of the highest score; ``accuracy/mean_recall`` is the mean recall over the classes that occur,
    which a model that always answers with the most frequent class does not raise. An undefined
    figure (recall without images, precision without predictions) is nan.

    Args:
        kwargs: arguments of mmpretrain's ``Accuracy``, of which ``topk`` is (1, 5) by default.
    """

    topk: tuple[int, ...]

    def __init__(self, topk: tuple[int, ...] = (1, 5), **kwargs: object) -> None:
        super().__init__(topk=topk, **kwargs)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Compute the figures, and print them as a table."""
        names = self.dataset_meta['classes']
        self.topk = tuple(k for k in self.topk if k <= len(names))
        metrics = super().compute_metrics(results)
        true = torch.cat([result['gt_label'] for result in results]).numpy()
        found = np.array([_best(result) for result in results])
        hit, images, answers = (
            np.bincount(labels, minlength=len(names))
            for labels in (true[true == found], true, found)
        )
        with np.errstate(invalid='ignore'):  # 0 / 0 is nan on purpose
            recall, precision = 100 * hit / images, 100 * hit / answers
        metrics['mean_recall'] = float(np.nanmean(recall))
        log_figures(
            f'{len(results)} images evaluated, in percent:',
            ('class', 'images', 'predicted', 'recall', 'precision'),
            zip(names, images.tolist(), answers.tolist(), recall.tolist(), precision.tolist()),
            {f'{self.prefix}/{name}': value for name, value in metrics.items()},
        )
        for name, *values in zip(names, recall.tolist(), precision.tolist()):
            metrics |= {
                f'{name}/{key}': value for key, value in zip(('recall', 'precision'), values)
            }
        return metrics


def _best(result: dict) -> int:
    scored = 'pred_score' in result
    return int(result['pred_score'].argmax() if scored else result['pred_label'])
