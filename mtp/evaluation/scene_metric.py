"""Figures of scenes that an import has cut into tiles, beside those of the tiles.

Overlapping tiles count objects twice, and judge objects that a tile's edge cuts. So the predictions
of all tiles are put together to those of the scenes, and judged against labels that are not cut.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmrotate.structures.bbox import qbox2rbox

from mtp.evaluation.coco_metric import DetectionMetric
from mtp.evaluation.tiles import Detections, merge_tiles
from mtp.files import UnusableFileError
from mtp.registry import METRICS
from mtp.sample_fields import IGNORED
from mtp.spelling import fold

PREFIX = 'scene'  # of the names of the scenes' figures
_FAR = 1 << 30  # distance of an edge that is also the scene's


@dataclass(frozen=True)
class Scene:
    """Scene of a split, as ``mtp data import`` writes it.

    Attributes:
        size: height and width in pixels.
        tiles: tiles in the split, int ``(T, 3)``: x, y, side, in pixels.
        corners: corners of the N objects, float32 ``(N, 4, 2)``, x and y in pixels.
        labels: their classes from 0, int ``(N,)``.
        ignored: whether they are neither missed nor found, bool ``(N,)``.
    """

    size: tuple[int, int]
    tiles: np.ndarray
    corners: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


def read_scenes(path: Path) -> tuple[dict[str, Scene], list[str] | None]:
    """Read the scenes of a split; :mod:`mtp.data.own.scene_truth` has the format.

    Returns:
        tuple: name -> scene, and the classes of the objects in label order; None for label maps.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f'no {path}, the uncut labels of the scenes: cut the tiles again with '
            '`mtp data import --tile`, or judge the tiles alone by the metric inside'
        )
    try:
        content = json.loads(path.read_bytes())
        scenes = {entry['name']: _scene(entry) for entry in content['scenes']}
        return scenes, content.get('classes')
    except (ValueError, KeyError, TypeError) as error:
        raise UnusableFileError(
            f'{path} is damaged ({error!r}): cut the tiles again with `mtp data import --tile`'
        ) from error


def _scene(entry: dict) -> Scene:
    objects = entry.get('objects', [])
    return Scene(
        (entry['height'], entry['width']),
        np.array(entry['tiles'], int).reshape(-1, 3),
        np.array([each['corners'] for each in objects], np.float32).reshape(-1, 4, 2),
        np.array([each['label'] for each in objects], int),
        np.array([each['ignored'] for each in objects], bool),
    )


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
        self.path = Path(scenes)
        self.scenes, self.classes = read_scenes(self.path)
        self.of_tile = {
            f'{name}__{side}__{x}___{y}': (name, number)
            for name, scene in self.scenes.items()
            for number, (x, y, side) in enumerate(scene.tiles.tolist())
        }
        self.cut, self.whole = METRICS.build(metric), METRICS.build(metric)
        self.whole.prefix = '/'.join(filter(None, (PREFIX, self.whole.prefix)))
        super().__init__(collect_device=collect_device, prefix=self.whole.prefix)

    @property
    def dataset_meta(self) -> dict | None:
        """Description of the data set, ``classes`` among it."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        self.check_classes(dataset_meta['classes'])
        self._dataset_meta = self.cut.dataset_meta = self.whole.dataset_meta = dataset_meta

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse other classes than those of the scenes' objects, which are stored by number."""
        if self.classes is not None and [*map(fold, self.classes)] != [*map(fold, classes)]:
            raise UnusableFileError(
                f'{self.path} has objects of the classes {", ".join(self.classes):.200}, but the '
                f'data set has {", ".join(classes):.200}: give `classes` of the data set in that '
                'order'
            )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch of tiles, for both metrics."""
        self.cut.process(data_batch, data_samples)
        for sample in data_samples:
            self.keep(self._tile(sample), sample)

    @abstractmethod
    def keep(self, tile: str, sample: dict) -> None:
        """Keep the prediction of a tile, given its name and sample, for the scenes' figures."""

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the figures of the tiles and of the scenes."""
        figures = self.cut.evaluate(size)
        missing = len(self.of_tile) - size
        if missing > 0:
            MMLogger.get_current_instance().warning(
                f'{missing} of {len(self.of_tile)} tiles in {self.path} are not among the images '
                'of this evaluation: their objects count as missed, their pixels are not judged'
            )
        MMLogger.get_current_instance().info(
            f'The same for the {len(self.scenes)} scenes that the tiles were cut from:'
        )
        return figures | super().evaluate(size)

    def _tile(self, sample: Mapping[str, Any]) -> str:
        name = Path(sample['img_path']).stem
        if name not in self.of_tile:
            raise UnusableFileError(
                f'{sample["img_path"]} is no tile of a scene in {self.path}: take it away, or '
                'cut the tiles again with `mtp data import --tile`'
            )
        return name


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
        found = sample['pred_instances']
        boxes = get_box_tensor(found['bboxes']).cpu().float()
        self.results.append((tile, (boxes, found['scores'].cpu().float(), found['labels'].cpu())))

    def compute_metrics(self, results: list[tuple[str, Detections]]) -> dict[str, float]:
        """Merge the tiles, and judge the scenes."""
        merged = merge_tiles(dict(results))
        sides = results[0][1][0].shape[1]
        none = torch.zeros(0, sides), torch.zeros(0), torch.zeros(0, dtype=torch.long)
        for name, scene in self.scenes.items():
            sample = _sample(name, scene, merged.get(name, none))
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
        low, high = scene.corners.min(1), scene.corners.max(1)
        sample['instances'] = [
            dict(bbox=box, bbox_label=label, area=area, ignore_flag=int(ignored))
            for box, label, area, ignored in zip(
                np.concatenate([low, high], 1).tolist(),
                scene.labels.tolist(),
                (high - low).prod(1).tolist(),
                scene.ignored.tolist(),
            )
        ]
        return sample
    corners = torch.from_numpy(scene.corners.reshape(-1, 8))
    true_boxes = qbox2rbox(corners) if len(corners) else corners.new_zeros(0, 5)
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
        name, number = self.of_tile[tile]
        stands = torch.from_numpy(stands_for(self.scenes[name], number))
        true = sample['gt_sem_seg']['data']
        if true.shape[-2:] != stands.shape:
            raise UnusableFileError(
                f'the label map of {sample["img_path"]} has height and width '
                f'{tuple(true.shape[-2:])}, in {self.path} its tile has {tuple(stands.shape)}: cut '
                'the tiles again with `mtp data import --tile`'
            )
        judged = true.masked_fill(~stands.to(true.device), IGNORED)
        self.whole.process(None, [dict(sample, gt_sem_seg=dict(data=judged))])
        self.results += self.whole.results  # counts, which this metric collects
        self.whole.results.clear()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the figures over the pixels that were counted."""
        return self.whole.compute_metrics(results)


def stands_for(scene: Scene, number: int) -> np.ndarray:
    """Return the pixels of a tile that no other tile shows farther from its edge, bool ``(S, S)``.

    Args:
        scene: scene of the tile.
        number: index of the tile.
    """
    height, width = scene.size
    x, y, side = scene.tiles[number].tolist()
    mine = _depth(scene, number)
    result = np.zeros((side, side), bool)
    result[: height - y, : width - x] = True
    starts, ends = scene.tiles[:, :2], scene.tiles[:, :2] + scene.tiles[:, 2:]
    first, last = np.maximum(starts, (x, y)), np.minimum(ends, (x + side, y + side))
    for other in np.flatnonzero((first < last).all(1)).tolist():
        if other == number:
            continue
        theirs = _depth(scene, other)[_slices(first[other], last[other], starts[other])]
        here = _slices(first[other], last[other], starts[number])
        farther = theirs > mine[here] if other > number else theirs >= mine[here]
        result[here] &= ~farther
    return result


def _slices(first: np.ndarray, last: np.ndarray, start: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns, in pixels of a tile, of a part of the scene."""
    (left, top), (right, bottom) = (first - start).tolist(), (last - start).tolist()
    return slice(top, bottom), slice(left, right)


def _depth(scene: Scene, number: int) -> np.ndarray:
    """Return the distance of each pixel of a tile from the tile's nearest edge, in pixels."""
    x, y, side = scene.tiles[number].tolist()
    rows, columns = (
        _along(start, side, length) for start, length in zip((y, x), scene.size, strict=True)
    )
    return np.minimum.outer(rows, columns)


def _along(start: int, side: int, length: int) -> np.ndarray:
    """Return the distance of pixels from the ends of a tile along one axis."""
    place = np.arange(side)
    before = place if start > 0 else np.full(side, _FAR)
    after = side - 1 - place if start + side < length else np.full(side, _FAR)
    return np.minimum(before, after)
