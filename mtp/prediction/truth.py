"""Figures of a prediction against the labels of its scene."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import shapely

from mtp.data.class_names import ClassNames
from mtp.data.labels import to_rotated
from mtp.data.own.vector_labels import (
    Feature,
    Scene,
    place_features,
    read_layer,
    rotated_corners,
)
from mtp.data.tally import Tally
from mtp.evaluation.label_maps import backgrounds_of
from mtp.evaluation.rotated_metric import RotatedImage, rotated_ap
from mtp.prediction.results import Detections, RotatedDetections
from mtp.sample_fields import IGNORED

SCORE = 0.01  # smallest score of objects that are judged: a figure is over all thresholds


class Truth:
    """Labels of a scene.

    Args:
        path: vector file of polygons with their classes.
        scene: where the scene lies.
        class_column: column of the class; None to find it.

    Raises:
        UnusableFileError: the file has no clear column of classes.
    """

    def __init__(self, path: Path, scene: Scene, class_column: str | None = None) -> None:
        layer = read_layer(path, class_column, Tally())
        self.features: list[Feature] = place_features(layer, scene, Tally())

    def _labels(self, classes: Sequence[str]) -> list[int]:
        names = ClassNames(classes, Tally())
        return [names.label(each.name, each.place) for each in self.features]

    def judge_objects(self, result: Detections) -> dict[str, float]:
        """Return the figures of objects, in percent.

        Returns:
            dict: ``mAP50`` over the classes that occur, ``<class>/AP50``, and ``objects``, the
            number of true ones. Average precision is the area under the curve.
        """
        rotated = isinstance(result, RotatedDetections)
        shapes = [each.shape for each in self.features]
        if rotated:
            corners = [rotated_corners(shape).reshape(-1).tolist() for shape in shapes]
            true, found = to_rotated(corners), result.boxes.astype(np.float32)
        else:
            bounds = np.array([shape.bounds for shape in shapes], np.float32).reshape(-1, 4)
            true, found = _centred(bounds), _centred(result.boxes.astype(np.float32))
        image = RotatedImage(
            boxes=found,
            scores=result.scores,
            labels=result.labels,
            true_boxes=true,
            true_labels=np.array(self._labels(result.classes), np.int64),
            ignored=np.zeros(len(true), bool),
        )
        of_classes = rotated_ap([image], len(result.classes), mode='area')
        figures = {
            f'{name}/AP50': 100 * float(each['ap'])
            for name, each in zip(result.classes, of_classes)
            if each['num_gts']
        }
        mean = float(np.mean([*figures.values()])) if figures else float('nan')
        return dict(mAP50=mean, objects=len(shapes)) | figures

    def judge_map(
        self, rows: Iterable[np.ndarray], classes: Sequence[str], scale: np.ndarray
    ) -> dict[str, float]:
        """Return the figures of a label map, in percent.

        Pixels outside all polygons are the class called background or unchanged, if the model has
        one, and otherwise not judged.

        Args:
            rows: parts of the map from the top, uint8 ``(rows, W)``.
            classes: class names in label order.
            scale: pixels of the scene on the sides of one of the map, x and y.

        Returns:
            dict: ``mIoU`` over the classes that occur, and ``<class>/IoU``.
        """
        from rasterio import Affine
        from rasterio.features import rasterize

        labels = self._labels(classes)
        shapes = [
            (shapely.transform(each.shape, lambda points: points / scale), label)
            for each, label in zip(self.features, labels)
        ]
        outside = next(iter(backgrounds_of(classes)), IGNORED)
        number, top = len(classes), 0
        counts = np.zeros((number, number), np.int64)
        for found in rows:
            true = np.full(found.shape, outside, np.uint8)
            if shapes:
                shift = Affine.translation(0, top)
                rasterize(shapes, out=true, transform=shift)
            judged = (true != IGNORED) & (found != IGNORED)
            pairs = true[judged].astype(np.int64) * number + found[judged]
            counts += np.bincount(pairs, minlength=number**2).reshape(number, number)
            top += len(found)
        union = counts.sum(0) + counts.sum(1) - counts.diagonal()
        present = counts.sum(1) > 0
        ious = 100 * counts.diagonal() / np.maximum(union, 1)
        figures = {f'{name}/IoU': float(ious[i]) for i, name in enumerate(classes) if present[i]}
        mean = float(ious[present].mean()) if present.any() else float('nan')
        return dict(mIoU=mean) | figures


def _centred(boxes: np.ndarray) -> np.ndarray:
    """Return boxes ``(N, 4)``, xyxy, as rotated ones without an angle, ``(N, 5)``."""
    low, high = boxes[:, :2], boxes[:, 2:]
    columns = [(low + high) / 2, high - low, np.zeros((len(boxes), 1))]
    return np.concatenate(columns, 1).astype(np.float32)
