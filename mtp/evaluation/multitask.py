"""All tasks of all data sets, evaluated in one pass over a validation loader."""
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation.functional import average_precision
from mmdet.structures.bbox import get_box_tensor
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmrotate.evaluation.functional.mean_ap import tpfp_default
from mmseg.evaluation.metrics import IoUMetric
from pycocotools import mask as coco_mask

from mtp.registry import METRICS

# Columns of the table; all but the AP of horizontal boxes make the average.
COLUMNS = ('semantic/mIoU', 'instance/bbox_mAP', 'instance/segm_mAP', 'rotated/mAP')
AVERAGED = ('semantic/mIoU', 'instance/segm_mAP', 'rotated/mAP')


@METRICS.register_module()
class MultiTaskMetric(BaseMetric):
    """mIoU, COCO box and mask AP, and rotated mAP of each data set, all in percent.

    - ``<data set>/semantic/mIoU``: mean over classes and background, of those that occur in truth
      or prediction; pixels labelled 255 do not count (mmseg's ``IoUMetric``).
    - ``<data set>/instance/bbox_mAP`` and ``segm_mAP``: COCO AP over IoU 0.50:0.95, at most 100
      objects of a class per image (pycocotools' definition, computed by faster-coco-eval).
    - ``<data set>/rotated/mAP``: VOC07 11-point AP at rotated IoU 0.5, mean over the classes that
      occur in the truth (mmrotate's definition for DOTA).
    - ``average``: mean of mIoU, segm_mAP and rotated mAP over the data sets: nine numbers for
      three data sets.

    A figure that is not defined, for want of a single object in the truth, is nan and left out of
    the average. Data sets, classes and tasks are those of ``dataset_meta['datasets']``. Each image
    is reduced to counts, boxes and run lengths as it comes, on its own process, and counts once
    however many processes share the loader.

    Args:
        collect_device, prefix, collect_dir: as in :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: an image has labels for a task that the model did not predict.
    """
    default_prefix = ''  # the names are complete; mmengine warns where it is None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Reduce the samples of a batch (dicts of ``DetDataSample``) to what the metrics need."""
        for sample in data_samples:
            meta = self.dataset_meta['datasets'][sample['dataset']]
            result = dict(dataset=sample['dataset'], img_id=sample['img_id'])
            for task in meta['tasks']:
                field, reduce, _ = TASKS[task]
                if field not in sample:
                    raise ValueError(
                        f'{sample["img_path"]}: the data set {sample["dataset"]!r} has labels for '
                        f'the task {task!r}, but the model predicted none: add the task to the '
                        "model, or leave it out of the data set's `tasks`")
                result[task] = reduce(sample, len(meta['classes']))
            self.results.append(result)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Metrics of the collected results; also prints them as a table."""
        # The sampler gives some images twice, so that all processes have equally many.
        images = {(result['dataset'], result['img_id']): result for result in results}
        grouped = defaultdict(list)
        for result in images.values():
            grouped[result['dataset']].append(result)
        metrics = {}
        for name, group in grouped.items():
            for task in self.dataset_meta['datasets'][name]['tasks']:
                evaluate = TASKS[task][2]
                for key, value in evaluate([result[task] for result in group]).items():
                    metrics[f'{name}/{task}/{key}'] = value
        metrics['average'] = _mean(
            value for key, value in metrics.items() if key.endswith(AVERAGED))
        print_log(f'{len(images)} images evaluated, in percent:\n{_table(grouped, metrics)}',
                  'current')
        return metrics


def _mean(values: Iterable[float]) -> float:
    """Mean of the numbers that are defined; nan where none is."""
    return torch.tensor(list(values), dtype=torch.float64).nanmean().item()


def _table(names: Iterable[str], metrics: dict[str, float]) -> str:
    lines = [('data set', *COLUMNS)]
    for name in names:
        values = (metrics.get(f'{name}/{column}') for column in COLUMNS)
        lines.append((name, *('-' if value is None else f'{value:.2f}' for value in values)))
    width = max(len(line[0]) for line in lines)
    rows = [f'{first:<{width}}' + ''.join(f'{cell:>19}' for cell in cells)
            for first, *cells in lines]
    rows.append(f'average of {", ".join(AVERAGED)}: {metrics["average"]:.2f}')
    return '\n'.join(rows)


def _semantic(sample: dict, num_classes: int) -> tuple[np.ndarray, ...]:
    """Pixels per class and background: intersection, union, prediction, label."""
    areas = IoUMetric.intersect_and_union(
        sample['pred_sem_seg']['sem_seg'].squeeze(0).cpu(),
        sample['gt_sem_seg']['sem_seg'].squeeze(0).cpu(), num_classes + 1, ignore_index=255)
    return tuple(area.numpy() for area in areas)


def _mean_iou(images: list[tuple[np.ndarray, ...]]) -> dict[str, float]:
    # float32, as they come, loses count at 2^24 pixels: sixteen images of 1024 x 1024
    areas = [torch.from_numpy(np.sum(kind, axis=0, dtype=np.float64)) for kind in zip(*images)]
    return {'mIoU': 100 * _mean(IoUMetric.total_area_to_metrics(*areas, ['mIoU'])['IoU'])}


def _instance(sample: dict, num_classes: int) -> dict:
    """Predicted and true objects of an image, as COCO stores them."""
    found = sample['pred_instances']
    truth = _objects(sample['gt_instances'], sample['gt_instances']['masks'].masks, iscrowd=0)
    if 'ignored_instances' in sample:
        ignored = sample['ignored_instances']
        truth += _objects(ignored, ignored['masks'].masks, iscrowd=1)
    predicted = _objects(found, found['masks'].cpu().numpy())
    for entry, score in zip(predicted, found['scores'].tolist()):
        entry['score'] = score
    height, width = sample['ori_shape'][:2]
    return dict(image=dict(height=height, width=width), truth=truth, predicted=predicted,
                num_classes=num_classes)


def _objects(instances: dict, masks: np.ndarray, **common: int) -> list[dict]:
    objects = []
    for label, (x1, y1, x2, y2), mask in zip(
            instances['labels'].tolist(), get_box_tensor(instances['bboxes']).tolist(), masks):
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        objects.append(dict(category_id=label, bbox=[x1, y1, x2 - x1, y2 - y1], segmentation=rle,
                            area=float(coco_mask.area(rle)), **common))
    return objects


def _coco_ap(images: list[dict]) -> dict[str, float]:
    truth = dict(images=[], annotations=[],
                 categories=[dict(id=i, name=str(i)) for i in range(images[0]['num_classes'])])
    predicted = []
    for number, image in enumerate(images):
        truth['images'].append(dict(image['image'], id=number))
        for entry in image['truth']:
            truth['annotations'].append(
                dict(entry, id=len(truth['annotations']) + 1, image_id=number))
        predicted += [dict(entry, image_id=number) for entry in image['predicted']]
    if not any(not entry['iscrowd'] for entry in truth['annotations']):
        return {'bbox_mAP': float('nan'), 'segm_mAP': float('nan')}
    if not predicted:  # COCO.loadRes takes no empty list
        return {'bbox_mAP': 0.0, 'segm_mAP': 0.0}
    coco = COCO(truth)
    metrics = {}
    for kind, other in (('bbox', 'segmentation'), ('segm', 'bbox')):
        # given both, loadRes would take the boxes' areas for those of the masks
        found = coco.loadRes([{key: entry[key] for key in entry if key not in (other, 'area')}
                              for entry in predicted])
        evaluation = COCOeval_faster(coco, found, kind, print_function=lambda *_: None)
        evaluation.run()
        metrics[f'{kind}_mAP'] = float(evaluation.stats[0] * 100)
    return metrics


def _rotated(sample: dict, num_classes: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Of each class: scores, whether each prediction is a true positive, number of objects."""
    found, truth = sample['pred_rotated_instances'], sample['gt_rotated_instances']
    boxes = torch.cat([get_box_tensor(found['bboxes']), found['scores'][:, None]], 1).cpu().numpy()
    true_boxes = get_box_tensor(truth['bboxes']).cpu().numpy()
    labels, true_labels = found['labels'].cpu().numpy(), truth['labels'].cpu().numpy()
    none = np.zeros((0, 5), np.float32)
    result = []
    for label in range(num_classes):
        of_class, true = boxes[labels == label], true_boxes[true_labels == label]
        hits, _ = tpfp_default(of_class, true, none, iou_thr=0.5, box_type='rbox')
        result.append((of_class[:, 5], hits[0], len(true)))
    return result


def _rotated_map(images: list[list[tuple[np.ndarray, np.ndarray, int]]]) -> dict[str, float]:
    # mmrotate's eval_rbbox_map, from matches found already: it would start a pool of processes
    precisions = []
    for of_class in zip(*images):
        scores, hits, counts = zip(*of_class)
        if not sum(counts):
            continue
        order = np.argsort(-np.concatenate(scores), kind='stable')
        true_positives = np.concatenate(hits)[order].cumsum(dtype=np.float64)
        precisions.append(average_precision(
            true_positives / sum(counts), true_positives / np.arange(1, len(order) + 1),
            mode='11points'))
    return {'mAP': 100 * _mean(precisions)}


# Task -> field of its predictions, what it keeps of an image, how that becomes figures.
TASKS = {
    'semantic': ('pred_sem_seg', _semantic, _mean_iou),
    'instance': ('pred_instances', _instance, _coco_ap),
    'rotated': ('pred_rotated_instances', _rotated, _rotated_map),
}
