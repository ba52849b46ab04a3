"""What a tested sample says of each task: prediction and truth, whatever library made it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import BaseDataElement, InstanceData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch import Tensor

from mtp.evaluation.label_maps import probabilities_of
from mtp.evaluation.report.matching import ImageObjects
from mtp.sample_fields import label_table


@dataclass(frozen=True)
class SceneAnswer:
    """Scores of all classes for an image, ``(C,)``, 0..1, and its true class."""

    scores: np.ndarray
    label: int


@dataclass(frozen=True)
class LabelMaps:
    """Predicted and true classes of pixels, int ``(H, W)``, 255 where the truth is ignored.

    ``scores`` are those of each class, ``(C, H, W)``, 0..1, or None where the model gives none.
    """

    found: np.ndarray
    true: np.ndarray
    scores: np.ndarray | None


@dataclass(frozen=True)
class Part:
    """A task's content of a sample.

    Attributes:
        dataset: name of the data set; '' for a single one.
        task: name of the task.
        classes: names of the classes in label order, background included where it is a label.
        content: prediction and truth; None for a task of a kind that is not known here.
    """

    dataset: str
    task: str
    classes: tuple[str, ...]
    content: SceneAnswer | LabelMaps | ImageObjects | None


def parts_of(sample: BaseDataElement, meta: dict[str, Any]) -> Iterator[Part]:
    """Yield the tasks of a tested sample.

    Args:
        sample: sample of mtp, mmpretrain, mmdet, mmrotate or mmseg, with prediction and truth.
        meta: metadata of the data set: ``classes``, or for mtp's samples ``datasets``.

    Raises:
        ValueError: the sample has no truth, or is of another kind.
    """
    try:
        yield from _parts_of(sample, meta)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            f'{sample.get("img_path")}: a report compares predictions with the truth, and this '
            f'image has none ({error}): report on a split with labels'
        ) from error


def _parts_of(sample: BaseDataElement, meta: dict[str, Any]) -> Iterator[Part]:
    if isinstance(sample, DataSample):
        classes = meta.get('classes') or map(str, range(len(sample.pred_score)))
        answer = SceneAnswer(_array(sample.pred_score), int(sample.gt_label))
        yield Part('', 'classification', tuple(classes), answer)
    elif isinstance(sample, SegDataSample):
        task = 'change detection' if 'img_path2' in sample else 'segmentation'
        logits = sample.get('seg_logits')
        maps = LabelMaps(
            _array(sample.pred_sem_seg.data)[0],
            _array(sample.gt_sem_seg.data)[0],
            None if logits is None else probabilities_of(logits.data),
        )
        yield Part('', task, tuple(meta['classes']), maps)
    elif isinstance(sample, DetDataSample) and 'datasets' in meta:
        yield from _tasks(sample, meta['datasets'][sample.dataset])
    elif isinstance(sample, DetDataSample):
        found, truth = sample.pred_instances, sample.get('instances')
        rotated = get_box_tensor(found.bboxes).shape[-1] == 5
        objects = (
            _objects(found, sample.gt_instances, sample.get('ignored_instances'))
            if rotated or truth is None
            else _listed(found, truth)
        )
        task = 'rotated detection' if rotated else 'horizontal detection'
        yield Part('', task, tuple(meta['classes']), objects)
    else:
        raise ValueError(
            f'a sample of {type(sample).__name__} cannot be reported: known are those of '
            'mtp, mmpretrain, mmdet, mmrotate and mmseg'
        )


def _tasks(sample: DetDataSample, meta: dict[str, Any]) -> Iterator[Part]:
    """Yield the tasks of a sample of the multi-task model."""
    for task in meta['tasks']:
        name = label_table()[task].name
        found, truth = sample.get(f'pred_{name}'), sample.get(f'gt_{name}')
        classes: Sequence[str] = meta['classes']
        content: LabelMaps | ImageObjects | None = None
        if isinstance(found, InstanceData) and 'scores' in found and 'bboxes' in found:
            ignored = sample.get('ignored_instances') if name == 'instances' else None
            content = _objects(found, truth, ignored)
        elif 'sem_seg' in (found or ()):
            classes = ('background', *classes)
            logits = sample.get('seg_logits')
            scores = None if logits is None else probabilities_of(logits.data)
            content = LabelMaps(_array(found.sem_seg)[0], _array(truth.sem_seg)[0], scores)
        yield Part(sample.dataset, task, tuple(classes), content)


def _objects(
    found: InstanceData, truth: InstanceData, ignored: InstanceData | None
) -> ImageObjects:
    parts = [truth] if ignored is None or 'bboxes' not in ignored else [truth, ignored]
    return ImageObjects(
        _array(get_box_tensor(found.bboxes).float()),
        _array(found.scores.float()),
        _array(found.labels),
        np.concatenate([_array(get_box_tensor(part.bboxes).float()) for part in parts]),
        np.concatenate([_array(part.labels) for part in parts]),
        np.repeat([False, True][: len(parts)], [len(part.labels) for part in parts]),
    )


def _listed(found: InstanceData, truth: Sequence[dict]) -> ImageObjects:
    """Take the truth that the metric of horizontal boxes takes: what the reader read."""
    return ImageObjects(
        _array(get_box_tensor(found.bboxes).float()),
        _array(found.scores.float()),
        _array(found.labels),
        np.array([each['bbox'] for each in truth], np.float32).reshape(-1, 4),
        np.array([each['bbox_label'] for each in truth], int),
        np.array([each['ignore_flag'] for each in truth], bool),
    )


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
