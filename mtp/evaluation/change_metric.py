"""Metric of change detection over all pixels of a split."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from mtp.evaluation.label_maps import judge_labels, mean_of_defined
from mtp.evaluation.tables import log_figures
from mtp.registry import METRICS
from mtp.sample_fields import IGNORED

SCORES = ('F1', 'precision', 'recall', 'IoU')


@METRICS.register_module()
class ChangeMetric(BaseMetric):
    """F1, precision, recall and IoU of each class, from the counts over all images, in percent.

    Keys are ``<class>/<score>``, ``mIoU`` (mean over the classes that occur), ``accuracy`` (share
    of correct pixels) and ``classes_without_labels``. Pixels labelled 255 are ignored. An undefined
    score (precision without predictions, recall without labels) is nan; so is ``mIoU`` if only one
    class is labelled, for then an answer without any change seems perfect. An image counts once,
    however many processes share the loader.

    Args:
        collect_device, prefix, collect_dir: arguments of :class:`mmengine.evaluator.BaseMetric`.
    """

    default_prefix = ''  # the names are complete; mmengine warns if it is None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Reduce each sample of mmseg to its confusion matrix (true class, predicted class)."""
        classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            found = sample['pred_sem_seg']['data'].cpu().numpy().ravel()
            true = sample['gt_sem_seg']['data'].cpu().numpy().ravel()
            valid = true != IGNORED
            pairs = true[valid].astype(np.int64) * classes + found[valid]
            counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
            self.results.append((sample['img_path'], counts))

    def compute_metrics(self, results: list[tuple[str, np.ndarray]]) -> dict[str, float]:
        """Compute the scores from the collected counts, and print them as a table."""
        # The sampler repeats some images, so that all processes have equally many.
        images = dict(results)
        counts = np.sum(list(images.values()), axis=0)
        names = self.dataset_meta['classes']
        hit, true, found = counts.diagonal(), counts.sum(1), counts.sum(0)
        with np.errstate(invalid='ignore'):  # 0 / 0 is nan on purpose
            table = dict(
                zip(
                    SCORES,
                    (2 * hit / (true + found), hit / found, hit / true, hit / (true + found - hit)),
                )
            )
            accuracy = hit.sum() / counts.sum()
        metrics = {
            f'{name}/{score}': 100 * float(values[i])
            for i, name in enumerate(names)
            for score, values in table.items()
        }
        missing, says_something = judge_labels(names, true)
        metrics['mIoU'] = 100 * mean_of_defined(table['IoU']) if says_something else float('nan')
        metrics['accuracy'] = 100 * float(accuracy)
        metrics['classes_without_labels'] = missing
        share = 100 * true / max(true.sum(), 1)
        log_figures(
            f'{len(images)} pairs evaluated, in percent:',
            ('class', 'of all pixels', *SCORES),
            [
                (name, share[i].item(), *(metrics[f'{name}/{score}'] for score in SCORES))
                for i, name in enumerate(names)
            ],
            {key: value for key, value in metrics.items() if '/' not in key},
        )
        return metrics
