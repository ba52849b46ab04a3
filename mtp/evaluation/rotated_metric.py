"""mmrotate's average precision of rotated boxes, for all images and classes at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from mmdet.evaluation.functional import average_precision
from mmdet.structures.bbox import get_box_tensor
from mmrotate.evaluation import DOTAMetric

from mtp.evaluation.tables import SHOWN_HEAD, count_shown, log_figures
from mtp.ops import box_iou_rotated
from mtp.registry import METRICS

# A box whose sides differ by less than this share looks the same after a quarter turn.
_SQUARE = 0.1
# Pairs of boxes processed at once: some 200 MB of temporaries.
_PAIRS_PER_CHUNK = 1 << 21


@dataclass
class RotatedImage:
    """N predicted and M ground-truth objects of an image.

    A box is (cx, cy, w, h, theta), float32, pixels and radians. A prediction that overlaps an
    ``ignored`` object most is neither a true nor a false positive.
    """

    boxes: np.ndarray  # (N, 5)
    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,)
    true_boxes: np.ndarray  # (M, 5)
    true_labels: np.ndarray  # (M,)
    ignored: np.ndarray  # bool (M,)

    @classmethod
    def from_instances(
        cls, found: dict, truth: dict, ignored: dict | None = None
    ) -> 'RotatedImage':
        """Build it from instances' ``bboxes``, ``labels`` and, for predictions, ``scores``."""
        parts = [found, truth] if ignored is None else [found, truth, ignored]
        boxes, *true_boxes = (
            get_box_tensor(part['bboxes']).float().cpu().numpy().reshape(-1, 5) for part in parts
        )
        labels, *true_labels = (part['labels'].cpu().numpy() for part in parts)
        return cls(
            boxes,
            found['scores'].float().cpu().numpy(),
            labels,
            np.concatenate(true_boxes),
            np.concatenate(true_labels),
            np.arange(sum(map(len, true_labels))) >= len(true_labels[0]),
        )


def rotated_ap(
    images: Sequence[RotatedImage],
    num_classes: int,
    iou_threshold: float = 0.5,
    mode: str = '11points',
) -> list[dict]:
    """Compute the average precision of each class; equal to mmrotate's ``eval_rbbox_map``.

    A prediction is compared with the ground-truth object of its class that it overlaps most. By
    falling score, the first prediction that overlaps an object by ``iou_threshold`` or more is a
    true positive, further ones are false positives. Predictions of equal scores keep their order;
    mmrotate leaves it to numpy, which sorts them differently on different processors. As in
    mmrotate, ignored objects have no effect in an image that has no others.

    Args:
        images: all images, each once.
        num_classes: number of classes; labels are 0 to num_classes - 1.
        iou_threshold: IoU from which a prediction matches, over 0, up to 1.
        mode: ``'11points'`` (VOC07) or ``'area'``.

    Returns:
        list: a dict for each class: ``num_gts``, ``num_dets``, ``recall`` and ``precision`` after
        each prediction by falling score, ``ap``, 0..1, and ``angle_errors`` of the true positives,
        degrees. Ignored objects are not counted.

    Raises:
        ValueError: the threshold is 0 or less, so that disjoint boxes would match.
    """
    if iou_threshold <= 0:
        raise ValueError(f'iou_threshold is {iou_threshold}; it must be over 0')
    joined = {
        field.name: np.concatenate([getattr(image, field.name) for image in images])
        for field in fields(RotatedImage)
    }
    labels, true_labels, ignored = (joined[key] for key in ('labels', 'true_labels', 'ignored'))
    group, true_group = (
        joined[key]
        + num_classes
        * np.repeat(np.arange(len(images)), [len(getattr(image, key)) for image in images])
        for key in ('labels', 'true_labels')
    )
    alone = np.repeat(
        [image.ignored.all() for image in images], [len(image.ignored) for image in images]
    )
    true_group[alone] = -1  # matches no prediction
    match = _best_matches(joined['boxes'], group, joined['true_boxes'], true_group, iou_threshold)

    order = np.lexsort((-joined['scores'], labels))  # stable
    match = match[order]
    fits = match >= 0
    counted = np.append(~ignored, False)[match]  # False for -1, no match
    true_positive = np.zeros(len(match), bool)
    # the first prediction of each object
    first = np.unique(np.where(counted, match, -1), return_index=True)[1]
    true_positive[first] = counted[first]
    false_positive = ~true_positive & (counted | ~fits)

    errors = _angle_errors(
        joined['boxes'][order[true_positive]], joined['true_boxes'][match[true_positive]]
    )
    num_gts = np.bincount(true_labels[~ignored], minlength=num_classes)
    ends = np.bincount(labels, minlength=num_classes).cumsum()
    matched = np.bincount(labels[order[true_positive]], minlength=num_classes).cumsum()
    results = []
    for hits, misses, count, of_class in zip(
        np.split(true_positive, ends[:-1]),
        np.split(false_positive, ends[:-1]),
        num_gts.tolist(),
        np.split(errors, matched[:-1]),
    ):
        # mmrotate's float32 matters where a recall is compared with 0.1, 0.2, ...
        hits, misses = (np.cumsum(part, dtype=np.float32) for part in (hits, misses))
        recall = hits / np.float64(max(count, 1))
        precision = hits / np.maximum(hits + misses, 1)
        results.append(
            dict(
                num_gts=count,
                num_dets=len(hits),
                recall=recall,
                precision=precision,
                ap=average_precision(recall, precision, mode),
                angle_errors=of_class,
            )
        )
    return results


def mean_of_classes(results: list[dict], default: float) -> float:
    """Return the mean AP, 0..1, of the classes in the ground truth, or ``default`` without any."""
    found = [result['ap'] for result in results if result['num_gts']]
    return np.mean(found).item() if found else default


def mean_angle_error(results: list[dict]) -> float:
    """Return the mean angle error of all true positives, degrees, or nan if there are none."""
    errors = np.concatenate([result['angle_errors'] for result in results])
    return errors.mean().item() if len(errors) else float('nan')


def _angle_errors(boxes: np.ndarray, true_boxes: np.ndarray) -> np.ndarray:
    """Return the angles between the long sides of pairs of boxes, 0 to 90 degrees ``(P,)``.

    A true box that is nearly square has no long side: there the error is the angle between any two
    sides, 0 to 45 degrees.
    """
    directions = [
        part[:, 4] + np.where(part[:, 2] < part[:, 3], np.pi / 2, 0) for part in (boxes, true_boxes)
    ]
    width, height = true_boxes[:, 2], true_boxes[:, 3]
    square = np.abs(width - height) < _SQUARE * np.maximum(width, height)
    period = np.where(square, np.pi / 2, np.pi)
    turn = (directions[0] - directions[1]) % period
    return np.degrees(np.minimum(turn, period - turn))


def _best_matches(
    boxes: np.ndarray,
    groups: np.ndarray,
    true_boxes: np.ndarray,
    true_groups: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    """Return for each box the ground-truth box of its group (class and image) it overlaps most.

    Returns:
        ndarray: indices of the ground-truth boxes ``(N,)``, int64, the first among equal overlaps;
        -1 where no overlap reaches the threshold.
    """
    match = np.full(len(boxes), -1)
    for found, true in _pairs_of_groups(groups, true_groups):
        near = _may_touch(boxes[found], true_boxes[true])
        found, true = found[near], true[near]
        overlaps = box_iou_rotated(
            torch.from_numpy(boxes[found]), torch.from_numpy(true_boxes[true]), aligned=True
        ).numpy()
        fits = overlaps >= iou_threshold
        found, true, overlaps = found[fits], true[fits], overlaps[fits]
        # sorted so that the best match of a box is written last
        order = np.lexsort((-true, overlaps))
        match[found[order]] = true[order]
    return match


def _pairs_of_groups(
    groups: np.ndarray, true_groups: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the indices (predicted, true) of pairs of equal groups, in chunks of whole boxes."""
    order = np.argsort(true_groups, kind='stable')
    begin, end = (np.searchsorted(true_groups[order], groups, side) for side in ('left', 'right'))
    partners = end - begin
    total = partners.cumsum()
    cuts = np.searchsorted(
        total, np.arange(_PAIRS_PER_CHUNK, total[-1] if len(total) else 0, _PAIRS_PER_CHUNK)
    )
    for chunk in np.split(np.arange(len(groups)), cuts):
        counts = partners[chunk]
        starts = counts.cumsum() - counts
        place = np.arange(counts.sum()) - np.repeat(starts - begin[chunk], counts)
        yield np.repeat(chunk, counts), order[place]


def _may_touch(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether the circumscribed circles of each pair of boxes meet, bool ``(P,)``."""
    distance = np.hypot(*(boxes[:, :2] - others[:, :2]).T)
    radius, other = (np.hypot(part[:, 2], part[:, 3]) / 2 for part in (boxes, others))
    return distance <= radius + other


@METRICS.register_module()
class RotatedMetric(DOTAMetric):
    """mmrotate's ``DOTAMetric`` in a fraction of the time and without a pool of processes.

    Keys and figures are the same (``dota/mAP``, ``dota/AP50``, ...), and so are merged patches and
    files, except that json is only written if ``outfile_prefix`` is set. There are also
    ``dota/AP75``, ``dota/angle_error`` (mean of the boxes matched at IoU 0.5, degrees), and all
    three of each class, ``dota/<class>/AP50``; nan if a class has no objects or matches.

    Args:
        kwargs: arguments of mmrotate's, except ``scale_ranges`` (which it does not support either).

    Raises:
        ValueError: ``scale_ranges`` are given, or ``predict_box_type`` is not ``'rbox'``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.predict_box_type != 'rbox' or self.scale_ranges is not None:
            raise ValueError(
                'RotatedMetric compares rotated boxes of all sizes: leave out '
                "scale_ranges, and predict_box_type unless it is 'rbox'"
            )
        self.mode = '11points' if self.use_07_metric else 'area'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the predicted boxes of each image and, if they are evaluated, the ground truth."""
        for sample in data_samples:
            found = sample['pred_instances']
            image = None
            if not self.merge_patches and not self.format_only:
                image = RotatedImage.from_instances(
                    found, sample['gt_instances'], sample['ignored_instances']
                )
            self.results.append(
                (
                    image,
                    dict(
                        img_id=sample['img_id'],
                        bboxes=get_box_tensor(found['bboxes']).cpu().numpy(),
                        scores=found['scores'].cpu().numpy(),
                        labels=found['labels'].cpu().numpy(),
                    ),
                )
            )

    def compute_metrics(self, results: list[tuple[RotatedImage, dict]]) -> dict[str, float]:
        """Compute the figures, 0..1 or degrees, and print them as a table."""
        if self.merge_patches or self.format_only:
            return super().compute_metrics(results)
        images, predictions = zip(*results)
        if self.outfile_prefix is not None:
            self.results2json(predictions, self.outfile_prefix)
        classes = self.dataset_meta['classes']
        found = {
            threshold: rotated_ap(images, len(classes), threshold, self.mode)
            for threshold in dict.fromkeys([*self.iou_thrs, 0.5, 0.75])
        }
        means = {threshold: mean_of_classes(part, default=0.0) for threshold, part in found.items()}
        metrics = {'mAP': sum(means[key] for key in self.iou_thrs) / len(self.iou_thrs)}
        metrics |= {f'AP{int(key * 100):02d}': round(mean, 3) for key, mean in means.items()}
        metrics['angle_error'] = mean_angle_error(found[0.5])
        of_classes = per_class(found[0.5], found[0.75])
        at_50, at_75, error = of_classes.values()
        shown = count_shown((image.scores, image.labels) for image in images)
        log_figures(
            f'{len(images)} images evaluated, in percent and degrees:',
            ('class', 'objects', SHOWN_HEAD, 'AP50', 'AP75', 'angle error'),
            [
                (name, part['num_gts'], shown[k], 100 * at_50[k], 100 * at_75[k], error[k])
                for k, (name, part) in enumerate(zip(classes, found[0.5]))
            ],
            {
                f'{self.prefix}/{key}': value * (1 if key == 'angle_error' else 100)
                for key, value in metrics.items()
            },
        )
        return metrics | {
            f'{name}/{key}': values[k]
            for k, name in enumerate(classes)
            for key, values in of_classes.items()
        }


def per_class(at_50: list[dict], at_75: list[dict]) -> dict[str, list[float]]:
    """Return ``AP50``, ``AP75`` (0..1), ``angle_error`` (degrees) of each class, nan if undefined.

    Args:
        at_50: result of :func:`rotated_ap` at IoU 0.5.
        at_75: the same at IoU 0.75.
    """
    return dict(
        AP50=[mean_of_classes([result], float('nan')) for result in at_50],
        AP75=[mean_of_classes([result], float('nan')) for result in at_75],
        angle_error=[mean_angle_error([result]) for result in at_50],
    )
