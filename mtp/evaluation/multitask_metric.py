"""Evaluation of all tasks of all data sets in one pass over a validation loader."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmengine.evaluator import BaseMetric

from mtp.evaluation.cut_scenes import PREFIX, Scenes
from mtp.evaluation.tables import log_figures
from mtp.evaluation.task_metrics import (
    InstanceMetric,
    RotatedTaskMetric,
    SceneTaskMetric,
    SemanticMetric,
    TaskMetric,
    mean,
)
from mtp.registry import METRICS
from mtp.sample_fields import label_table

TASKS: dict[str, TaskMetric] = {
    'semantic': SemanticMetric(),
    'instance': InstanceMetric(),
    'rotated': RotatedTaskMetric(),
}


@METRICS.register_module()
class MultiTaskMetric(BaseMetric):
    """mIoU, COCO box and mask AP, and rotated mAP of each data set, all in percent.

    - ``<data set>/semantic/mIoU``: mean IoU over those classes, and background, that occur in
      ground truth or prediction; pixels labelled 255 are ignored (mmseg's ``IoUMetric``).
    - ``<data set>/instance/bbox_mAP`` and ``segm_mAP``: COCO AP over IoU 0.50:0.95, at most 100
      objects of a class per image (pycocotools' definition, computed by faster-coco-eval). A data
      set without masks has no ``segm_mAP``.
    - ``<data set>/rotated/mAP``: VOC07 11-point AP at rotated IoU 0.5, mean over the classes that
      occur in the ground truth (mmrotate's definition for DOTA); ``mAP_75``: the same at IoU 0.75;
      ``mean_angle_error``: mean of the boxes matched at IoU 0.5, degrees.
    - ``<data set>/semantic/mIoU_without_background``: the mean IoU without the background.
    - ``<data set>/<task>/<class>/<figure>``: figures of one class.
    - ``<data set>/<task>/<figure>``: figures of further tasks, in the units of their metrics.
    - ``scene/<data set>/<task>/...``: the same for the scenes that tiles were cut from
      (:mod:`mtp.evaluation.scene_metric`). Masks are judged in tiles only.
    - ``average``: mean of mIoU, segm_mAP and rotated mAP over the data sets: nine numbers for
      three data sets.

    A figure is undefined if the ground truth has no object: it is nan and left out of the average.
    Data sets, classes and tasks are those of ``dataset_meta['datasets']``. Each process immediately
    reduces its images to counts, boxes and run lengths. An image counts once, however many
    processes share the loader.

    Args:
        tasks: config of a :class:`TaskMetric` for each further task, by the task's name.
        scenes: json of the split's scenes by the name of each data set that was cut into tiles,
            ``<root>/scenes/val.json`` of an import.
        kwargs: arguments of :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: an image has labels for a task that has no metric, or for one that the model did
            not predict.
        FileNotFoundError: a json of scenes is missing.
        UnusableFileError: it is damaged, of other classes than the data set, or a tile is not in
            it.
    """

    default_prefix = ''  # the names are complete; mmengine warns if it is None

    def __init__(
        self,
        tasks: dict[str, dict] | None = None,
        scenes: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        further = {task: METRICS.build(metric) for task, metric in (tasks or {}).items()}
        self.tasks: dict[str, TaskMetric] = TASKS | further
        self.scenes = {name: Scenes(path) for name, path in (scenes or {}).items()}

    @property
    def dataset_meta(self) -> dict:
        """Description of the data sets: classes and tasks of each, under ``datasets``."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        for name, scenes in self.scenes.items():
            scenes.check_classes(dataset_meta['datasets'][name]['classes'])
        self._dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Reduce the samples of a batch (dicts of ``DetDataSample``) to what the metrics need."""
        for sample in data_samples:
            meta = self.dataset_meta['datasets'][sample['dataset']]
            result = dict(dataset=sample['dataset'], img_id=sample['img_id'])
            for task in meta['tasks']:
                if task not in self.tasks:
                    raise ValueError(
                        f'the data set {sample["dataset"]!r} has labels for the task {task!r}, '
                        f'which has no metric: give one in val_evaluator.tasks.{task}'
                    )
                if f'pred_{label_table()[task].name}' not in sample:
                    raise ValueError(
                        f'{sample["img_path"]}: the data set {sample["dataset"]!r} has labels for '
                        f'the task {task!r}, but the model predicted none: add the task to the '
                        "model, or leave it out of the data set's `tasks`"
                    )
                result[task] = self.tasks[task].reduce(sample, len(meta['classes']))
            result |= self._of_scene(sample, len(meta['classes']))
            self.results.append(result)

    def _of_scene(self, sample: dict, num_classes: int) -> dict[str, Any]:
        """Return what a tile says of its scene for each task, and the tile's name."""
        scenes = self.scenes.get(sample['dataset'])
        if scenes is None:
            return {}
        tile = scenes.tile(sample)
        return dict(
            tile=tile,
            of_scene={
                task: metric.reduce_tile(sample, num_classes, scenes, tile)
                for task, metric in self._judges(sample['dataset']).items()
            },
        )

    def _judges(self, name: str) -> dict[str, SceneTaskMetric]:
        """Return the metrics of a data set that judge its scenes, by task."""
        of_scenes = self.scenes[name].tasks
        return {
            task: metric
            for task in self.dataset_meta['datasets'][name]['tasks']
            if task in of_scenes and isinstance(metric := self.tasks[task], SceneTaskMetric)
        }

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Compute the metrics of the collected results, and print them as a table."""
        # The sampler repeats some images, so that all processes have equally many.
        images = {(result['dataset'], result['img_id']): result for result in results}
        grouped = defaultdict(list)
        for result in images.values():
            grouped[result['dataset']].append(result)
        figures = {
            name: {
                task: self.tasks[task].evaluate(
                    [result[task] for result in group], len(self._classes(name))
                )
                for task in self.dataset_meta['datasets'][name]['tasks']
            }
            for name, group in grouped.items()
        }
        metrics = self._named(figures)
        averaged = columns(self.tasks, 'averaged')
        metrics['average'] = mean(value for key, value in metrics.items() if key.endswith(averaged))
        average = {f'average of {", ".join(averaged)}': metrics['average']}
        self._log(figures, f'{len(images)} images', metrics, average)
        judged = [name for name in grouped if name in self.scenes]
        for name in judged:
            self.scenes[name].announce(len(grouped[name]))
        if judged:
            figures = {name: self._scene_figures(name, grouped[name]) for name in judged}
            of_scenes = self._named(figures)
            number = sum(len(self.scenes[name].scenes) for name in judged)
            self._log(figures, f'{number} scenes', of_scenes, {})
            metrics |= {f'{PREFIX}/{key}': value for key, value in of_scenes.items()}
        return metrics

    def _scene_figures(self, name: str, tiles: list[dict]) -> dict[str, dict[str, Any]]:
        """Return the figures of the scenes of a data set by task."""
        scenes, num_classes = self.scenes[name], len(self._classes(name))
        of_scene: dict[str, list[dict]] = {scene: [] for scene in scenes.scenes}
        for result in tiles:
            of_scene[scenes.scene_of(result['tile'])].append(result)
        found = {}
        for task, metric in self._judges(name).items():
            reduced = [
                metric.merge(
                    scenes.scenes[scene],
                    {each['tile']: each['of_scene'][task] for each in parts},
                    num_classes,
                )
                for scene, parts in of_scene.items()
            ]
            found[task] = metric.evaluate(reduced, num_classes)
        return found

    def _classes(self, name: str) -> tuple[str, ...]:
        return tuple(self.dataset_meta['datasets'][name]['classes'])

    def _named(self, figures: dict[str, dict[str, dict]]) -> dict[str, float]:
        """Return the figures of data sets by their names in ``metrics.json``."""
        named: dict[str, float] = {}
        for name, of_tasks in figures.items():
            for task, of_task in of_tasks.items():
                named |= _named(f'{name}/{task}', of_task, (*self._classes(name), 'background'))
        return named

    def _log(
        self,
        figures: dict[str, dict[str, dict]],
        judged: str,
        named: dict[str, float],
        average: dict[str, float],
    ) -> None:
        """Print a table of the classes of each data set, and one of all data sets.

        Args:
            figures: figures by data set and task.
            judged: what was judged, and how many.
            named: the figures by their names.
            average: a mean of figures, by what it is of.
        """
        for name, of_tasks in figures.items():
            of_classes = {
                f'{task}\n{key}': values
                for task, of_task in of_tasks.items()
                for key, values in of_task.items()
                if isinstance(values, Sequence)
            }
            _log_classes(name, self._classes(name), of_classes)
        heads = columns(self.tasks, 'figures')
        log_figures(
            f'{judged} evaluated, in percent and degrees:',
            ('data set', *(head.replace('/', '\n') for head in heads)),
            [(name, *(named.get(f'{name}/{head}') for head in heads)) for name in figures],
            average,
        )


def _named(prefix: str, figures: dict[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """Return the figures of a data set and of its classes by their names in ``metrics.json``."""
    named = {}
    for key, value in figures.items():
        if not isinstance(value, Sequence):
            named[f'{prefix}/{key}'] = value
        elif not all(isinstance(one, int) for one in value):
            named |= {f'{prefix}/{name}/{key}': one for name, one in zip(classes, value)}
    return named


def _log_classes(dataset: str, classes: Sequence[str], found: dict[str, Sequence]) -> None:
    """Log the figures of a data set's classes, if any metric gives them."""
    if found:
        names = [*classes, 'background'][: max(map(len, found.values()))]
        rows = zip_longest(names, *found.values())
        log_figures(f'{dataset}, in percent and degrees:', ('class', *found), rows)


def columns(tasks: dict[str, TaskMetric], kind: str) -> tuple[str, ...]:
    """Return ``<task>/<figure>`` of all tasks; ``kind`` is an attribute of :class:`TaskMetric`."""
    return tuple(
        f'{task}/{figure}' for task, metric in tasks.items() for figure in getattr(metric, kind)
    )
