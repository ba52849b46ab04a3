"""What a model predicts: plain arrays with class names, and their conversions.

Coordinates are pixels of the image: 0 is the left or upper edge of its first pixel.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import shapely
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from mmrotate.structures.bbox import RotatedBoxes
from pycocotools import mask as coco_mask

from mtp.evaluation.label_maps import backgrounds_of
from mtp.evaluation.tiles import corners_of
from mtp.files import UnusableFileError
from mtp.painting import colour_of, shade
from mtp.prediction.places import WGS84, Feature, Place, collection
from mtp.prediction.polygons import filled, mask_outlines, mean_inside, outlines
from mtp.sample_fields import IGNORED, label_table
from mtp.visualization.visualizer import PAPER, captioned, frame, legend, write_picture


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """Prediction for an image.

    Attributes:
        classes: class names in label order.
        size: height and width of the image in pixels.
        source: path of the image, or the name it was given; empty for an array.
        picture: what returns the image for pictures, uint8 RGB ``(H, W, 3)``; None where it is not
            kept.
        place: place on the map; None without one.
        palette: colour of each class, RGB 0..255; empty for mtp's own.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    source: str = ''
    picture: Callable[[], np.ndarray] | None = field(default=None, repr=False)
    place: Place | None = field(default=None, repr=False)
    palette: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)

    @abstractmethod
    def features(self) -> Iterator[Feature]:
        """Yield polygons in pixels, with their properties."""

    @abstractmethod
    def draw(self, tile: np.ndarray) -> set[int]:
        """Draw on the picture in place, uint8 RGB; return the labels for the legend."""

    @property
    def meta(self) -> dict[str, Any]:
        """Names and colours of the classes, as :mod:`mtp.painting` takes them."""
        return dict(classes=self.classes, palette=self.palette)

    def plot(self, path: str | Path | None = None) -> np.ndarray:
        """Draw the prediction on the image with a legend, uint8 RGB ``(H, W, 3)``.

        Args:
            path: file to write it to as well; None to return it only.
        """
        tile = self._canvas()
        labels = self.draw(tile)
        page = frame([np.concatenate([tile, legend(labels, self.meta, tile.shape[1])])])
        if path is not None:
            write_picture(path, page)
        return page

    def _canvas(self) -> np.ndarray:
        """Return the image to draw on, or paper in its size."""
        if self.picture is None:
            return np.full((*self.size, 3), PAPER, np.uint8)
        return self.picture().copy()

    def to_geojson(self, crs: str | None = WGS84) -> dict[str, Any]:
        """Return a GeoJSON ``FeatureCollection``.

        Args:
            crs: coordinate reference system of the polygons; None for the scene's. Without a place
                on the map, they are pixels, ``y`` downwards.
        """
        return collection(self.features(), self.place, crs)

    def to_geopandas(self) -> Any:
        """Return a ``geopandas.GeoDataFrame`` in the scene's coordinate reference system."""
        geopandas = _optional('geopandas')
        content = self.to_geojson(crs=None)
        crs = None if self.place is None else self.place.crs
        return geopandas.GeoDataFrame.from_features(content['features'], crs=crs)


@dataclass(frozen=True, kw_only=True)
class Detections(Result):
    """Objects in horizontal boxes, by falling score.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels, float32 ``(N, 4)``.
        scores: confidence, 0..1, float32 ``(N,)``.
        labels: class of each, from 0, int64 ``(N,)``.
        masks: pixels of each object, bool ``(N, H, W)``; None if the model makes none.
        outlines: polygon of each object's mask in pixels, ``(N,)``, which scenes have in place of
            ``masks``; None if the model makes none, or for a single image.
        tiles: left and top of the tile of a scene that each was found in, pixels, int ``(N, 2)``;
            None for a single image.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = field(default=None, repr=False)
    outlines: np.ndarray | None = field(default=None, repr=False)
    tiles: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.classes[label] for label in self.labels]

    @property
    def corners(self) -> np.ndarray:
        """Corners of the boxes, x and y in pixels, float32 ``(N, 4, 2)``."""
        return corners_of(self.boxes)

    @property
    def shapes(self) -> np.ndarray:
        """Polygon of each object in pixels, ``(N,)``: the outline of its mask, or else its box."""
        boxes = shapely.polygons(self.corners.astype(float))
        outlines = self.outlines
        if outlines is None and self.masks is not None:
            outlines = mask_outlines(self.masks)
        return boxes if outlines is None else np.where(shapely.is_empty(outlines), boxes, outlines)

    def features(self) -> Iterator[Feature]:
        """Yield a polygon for each object: the outline of its mask, or else its box."""
        tiles = [None] * len(self) if self.tiles is None else self.tiles.tolist()
        of_masks = self.masks is not None or self.outlines is not None
        for shape, corners, score, name, tile in zip(
            self.shapes, self.corners, self.scores, self.names, tiles
        ):
            if of_masks:  # the box around it says nothing of its direction
                around = shapely.minimum_rotated_rectangle(shape)
                corners = shapely.get_coordinates(around)[:4]
            place = None if tile is None else f'{tile[0]}_{tile[1]}'
            properties = {'class': name, 'score': _rounded(score), 'tile': place}
            yield Feature(shape, properties, corners.astype(float))

    def draw(self, tile: np.ndarray) -> set[int]:
        """Draw masks and boxes with their names."""
        content = InstanceData(
            bboxes=self._boxes(),
            scores=torch.from_numpy(self.scores),
            labels=torch.from_numpy(self.labels),
        )
        if self.masks is not None:
            content.masks = torch.from_numpy(self.masks)
        if self.outlines is not None:
            for label in np.unique(self.labels).tolist():
                area = filled(self.outlines[self.labels == label], tile.shape[:2])
                shade(tile, area, colour_of(self.meta, label), 0.6)
        return label_table()[self._task].draw(tile, content, 1.0, self.meta)

    _task = 'instance'

    def at_least(self, score: float) -> 'Detections':
        """Return the objects of at least a score, 0..1."""
        keep = self.scores >= score
        parts = {
            name: getattr(self, name)[keep]
            for name in ('boxes', 'scores', 'labels', 'masks', 'outlines', 'tiles')
            if getattr(self, name) is not None
        }
        return replace(self, **parts)

    def _boxes(self) -> Any:
        return HorizontalBoxes(torch.from_numpy(self.boxes))

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Return annotations as COCO's results have them; rotated boxes as polygons.

        COCO's polygons have no holes: those of an outline are filled.

        Args:
            image_id: id of the image in the json that they go with.
        """
        entries, shapes = [], self.shapes
        low, high = self.corners.min(1), self.corners.max(1)
        for i, (first, size) in enumerate(zip(low.tolist(), (high - low).tolist())):
            entry: dict[str, Any] = dict(
                image_id=image_id,
                category_id=int(self.labels[i]),
                bbox=[*first, *size],
                score=_rounded(self.scores[i]),
            )
            if self.masks is not None:
                rle = coco_mask.encode(np.asfortranarray(self.masks[i].astype(np.uint8)))
                entry['segmentation'] = dict(size=rle['size'], counts=rle['counts'].decode())
            elif self.outlines is not None:
                parts = shapely.get_exterior_ring(shapely.get_parts(shapes[i]))
                entry['segmentation'] = [
                    shapely.get_coordinates(ring)[:-1].reshape(-1).tolist() for ring in parts
                ]
            elif self._task == 'rotated':
                entry['segmentation'] = [self.corners[i].reshape(-1).tolist()]
            entries.append(entry)
        return entries

    def to_dota(self) -> str:
        """Return the objects as lines of a DOTA label file: corners, class, difficulty 0."""
        lines = (
            f'{" ".join(f"{value:.2f}" for value in corners.reshape(-1))} {name} 0\n'
            for corners, name in zip(self.corners, self.names)
        )
        return ''.join(lines)

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``; the corners of rotated boxes are in its ``data``."""
        supervision = _optional('supervision')
        data: dict[str, Any] = dict(class_name=np.array(self.names))
        if self._task == 'rotated':
            data['xyxyxyxy'] = self.corners
        return supervision.Detections(
            xyxy=np.concatenate([self.corners.min(1), self.corners.max(1)], 1),
            confidence=self.scores,
            class_id=self.labels,
            mask=self.masks,
            data=data,
        )


@dataclass(frozen=True, kw_only=True)
class RotatedDetections(Detections):
    """Objects in rotated boxes, by falling score.

    Attributes:
        boxes: cx, cy, w, h in pixels and the angle in radians, clockwise on screen, le90:
            w >= h, -pi/2 <= angle < pi/2; float32 ``(N, 5)``.
    """

    _task = 'rotated'

    def _boxes(self) -> Any:
        return RotatedBoxes(torch.from_numpy(self.boxes))


@dataclass(frozen=True, kw_only=True)
class Classification(Result):
    """Class of an image.

    Attributes:
        scores: probability of each class, 0..1, float32 ``(K,)``.
    """

    scores: np.ndarray

    @property
    def label(self) -> int:
        """The most probable class, from 0."""
        return int(self.scores.argmax())

    @property
    def name(self) -> str:
        """Name of the most probable class."""
        return self.classes[self.label]

    @property
    def score(self) -> float:
        """Probability of the most probable class, 0..1."""
        return float(self.scores[self.label])

    def features(self) -> Iterator[Feature]:
        """Yield the frame of the image."""
        height, width = self.size
        frame = shapely.box(0, 0, width, height)
        yield Feature(frame, {'class': self.name, 'score': _rounded(self.score)})

    def draw(self, tile: np.ndarray) -> set[int]:
        """Write the class above the image."""
        return {self.label}

    def plot(self, path: str | Path | None = None) -> np.ndarray:
        """Draw the image below its three most probable classes, uint8 RGB ``(H, W, 3)``."""
        tile = self._canvas()
        best = self.scores.argsort()[::-1][:3]
        for label in reversed(best):
            tile = captioned(tile, f'{self.classes[label]} {self.scores[label]:.2f}')
        page = frame([tile])
        if path is not None:
            write_picture(path, page)
        return page


@dataclass(frozen=True, kw_only=True)
class Segmentation(Result):
    """Class of each pixel.

    Attributes:
        labels: label map, uint8 ``(H, W)``, 255 where there is nothing to judge.
        probabilities: probability of each class, 0..1, float32 ``(K, H, W)``; None where it is not
            kept.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = field(default=None, repr=False)

    def features(self) -> Iterator[Feature]:
        """Yield the outlines of each connected area of a class but the background.

        Their score is the mean probability of the class, where probabilities are kept.
        """
        found = list(outlines(self.labels, backgrounds_of(self.classes)))
        scores = [None] * len(found)
        if self.probabilities is not None:
            index = np.where(self.labels == IGNORED, 0, self.labels)[None].astype(np.int64)
            own = np.take_along_axis(self.probabilities, index, 0)
            scores = mean_inside([polygon for _, polygon in found], own).tolist()
        for (label, polygon), score in zip(found, scores):
            rounded = None if score is None else _rounded(score)
            yield Feature(polygon, {'class': self.classes[label], 'score': rounded})

    def draw(self, tile: np.ndarray) -> set[int]:
        """Blend the colours of the classes into the image."""
        shown = {*range(len(self.classes))} - {*backgrounds_of(self.classes)}
        present = shown & {*np.unique(self.labels).tolist()}
        for label in present:
            shade(tile, self.labels == label, colour_of(self.meta, label), 0.6)
        return present


@dataclass(frozen=True, kw_only=True)
class Change(Segmentation):
    """Change between two dates: ``labels`` are 0, unchanged, and 1, changed."""

    @property
    def changed(self) -> np.ndarray:
        """Changed pixels, bool ``(H, W)``."""
        return self.labels == 1


class MultiTask(Mapping[tuple[str, str], Result]):
    """Predictions of a multi-task model: ``(data set, task)`` -> result."""

    def __init__(self, results: Mapping[tuple[str, str], Result]) -> None:
        self._results = dict(results)

    def __getitem__(self, key: tuple[str, str]) -> Result:
        """Return the result of a data set's task."""
        return self._results[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Return an iterator over data sets and tasks."""
        return iter(self._results)

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self._results)

    def plot(self, path: str | Path | None = None) -> np.ndarray:
        """Draw all results side by side, uint8 RGB ``(H, W, 3)``."""
        pages = [captioned(each.plot(), ' '.join(key)) for key, each in self.items()]
        page = frame(pages)
        if path is not None:
            write_picture(path, page)
        return page


def _rounded(score: float) -> float:
    return round(float(score), 4)


def _optional(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnusableFileError(f'{name} is not installed: pip install {name}') from error
