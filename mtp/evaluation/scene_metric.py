"""Figures of scenes that an import has cut into tiles, beside those of the tiles.

Overlapping tiles count objects twice, and judge objects that a tile's edge cuts. So the predictions
of all tiles are put together to those of the scenes, and judged against labels that are not cut.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from mtp.evaluation.coco_metric import DetectionMetric
from mtp.evaluation.cut_scenes import PREFIX, Scene, Scenes, rotated_boxes
from mtp.evaluation.tiles import Detections, detections_of, merge_tiles, no_detections
from mtp.registry import METRICS
from mtp.sample_fields import IGNORED


class SceneMetric(BaseMetric):
    """The figures of a metric for tiles, and under ``scene/`` for the scenes they were cut from.

    Args:
        metric: config of the metric.
        scenes: json of the split's scenes, ``<root>/scenes/<split>.json`` of an import.
        collect_device: argument of :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        FileNotFoundError: the json is missing.
        UnusableFileError: it is damaged, of other classes than the data set, or a tile is not in
            it.
    """

    def __init__(self, metric: dict, scenes: str, collect_device: str = 'cpu') -> None:
        self.scenes = Scenes(scenes)
        self.cut, self.whole = METRICS.build(metric), METRICS.build(metric)
        self.whole.prefix = '/'.join(filter(None, (PREFIX, self.whole.prefix)))
        super().__init__(collect_device=collect_device, prefix=self.whole.prefix)

    @property
    def dataset_meta(self) -> dict | None:
        """Description of the data set, ``classes`` among it."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        self.scenes.check_classes(dataset_meta['classes'])
        self._dataset_meta = self.cut.dataset_meta = self.whole.dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch of tiles, for both metrics."""
        self.cut.process(data_batch, data_samples)
        for sample in data_samples:
            self.keep(self.scenes.tile(sample), sample)

    @abstractmethod
    def keep(self, tile: str, sample: dict) -> None:
        """Keep the prediction of a tile, given its name and sample, for the scenes' figures."""

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the figures of the tiles and of the scenes."""
        figures = self.cut.evaluate(size)
        self.scenes.announce(size)
        return figures | super().evaluate(size)


@METRICS.register_module()
class SceneDetections(SceneMetric):
    """Figures of horizontal or rotated boxes for tiles and for the scenes they were cut from.

    The boxes of a scene are those of its tiles after class-wise non-maximum suppression
    (:func:`mtp.evaluation.tiles.merge_tiles`).

    Args:
        metric: config of :class:`mtp.evaluation.DetectionMetric` or
            :class:`mtp.evaluation.RotatedMetric`.
        scenes, collect_device: arguments of :class:`SceneMetric`.
    """

    def keep(self, tile: str, sample: dict) -> None:
        """Keep the boxes of a tile."""
        self.results.append((tile, detections_of(sample['pred_instances'])))

    def compute_metrics(self, results: list[tuple[str, Detections]]) -> dict[str, float]:
        """Merge the tiles, and judge the scenes."""
        merged = merge_tiles(dict(results))
        sides = results[0][1][0].shape[1]
        for name, scene in self.scenes.scenes.items():
            sample = _sample(name, scene, merged.get(name, no_detections(sides)))
            self.whole.process(None, [sample])
        if isinstance(self.whole, DetectionMetric):  # a scene has any number of objects
            most = max(1, *(len(scores) for _, scores, _ in merged.values()))
            self.whole.max_detections = (most, most)
        metrics = self.whole.compute_metrics(self.whole.results)
        self.whole.results.clear()
        return metrics


def _sample(name: str, scene: Scene, found: Detections) -> dict:
    """Return a sample of a scene, as the metrics of both kinds of boxes read it."""
    boxes, scores, labels = found
    sample: dict[str, Any] = dict(img_id=name, img_path=name)
    sample['pred_instances'] = dict(bboxes=boxes, scores=scores, labels=labels)
    if boxes.shape[1] == 4:
        true = scene.boxes
        sample['instances'] = [
            dict(bbox=box, bbox_label=label, area=area, ignore_flag=int(ignored))
            for box, label, area, ignored in zip(
                true.tolist(),
                scene.labels.tolist(),
                (true[:, 2:] - true[:, :2]).prod(1).tolist(),
                scene.ignored.tolist(),
            )
        ]
        return sample
    true_boxes = rotated_boxes(scene)
    for key, chosen in (('gt_instances', ~scene.ignored), ('ignored_instances', scene.ignored)):
        mask = torch.from_numpy(chosen)
        labels = torch.from_numpy(scene.labels)[mask]
        sample[key] = dict(bboxes=true_boxes[mask], labels=labels)
    return sample


@METRICS.register_module()
class SceneMaps(SceneMetric):
    """Figures of label maps or change maps for tiles and for the scenes they were cut from.

    Each pixel of a scene counts once, in the tile whose edge is farthest from it. An edge that is
    the scene's own does not count, and the first tile does among equals.

    Args:
        metric: config of :class:`mtp.evaluation.SegmentationMetric` or
            :class:`mtp.evaluation.ChangeMetric`.
        scenes, collect_device: arguments of :class:`SceneMetric`.
    """

    def keep(self, tile: str, sample: dict) -> None:
        """Count the pixels for which this tile stands, and ignore the others."""
        true = sample['gt_sem_seg']['data']
        stands = torch.from_numpy(self.scenes.pixels(tile, sample, true.shape[-2:]))
        judged = true.masked_fill(~stands.to(true.device), IGNORED)
        self.whole.process(None, [dict(sample, gt_sem_seg=dict(data=judged))])
        self.results += self.whole.results  # counts, which this metric collects
        self.whole.results.clear()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the figures over the pixels that were counted."""
        return self.whole.compute_metrics(results)
