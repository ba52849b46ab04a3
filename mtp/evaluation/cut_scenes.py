"""Scenes that an import has cut into tiles: their uncut labels, and the tile of each pixel."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmrotate.structures.bbox import qbox2rbox
from torch import Tensor

from mtp.files import UnusableFileError
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
        rotated: those of their rotated boxes, where these are others.
        labels: their classes from 0, int ``(N,)``.
        ignored: whether they are neither missed nor found, bool ``(N,)``.
    """

    size: tuple[int, int]
    tiles: np.ndarray
    corners: np.ndarray
    rotated: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """Horizontal boxes of the objects, xyxy in pixels, float32 ``(N, 4)``."""
        return np.concatenate([self.corners.min(1), self.corners.max(1)], 1)


class Scenes:
    """Scenes of a split, by name.

    Args:
        path: json of the scenes, ``<root>/scenes/<split>.json`` of an import;
            :mod:`mtp.data.own.scene_truth` has the format.

    Attributes:
        scenes: name -> scene.
        classes: classes of the objects in label order; None for label maps.
        tasks: tasks of a pretraining that the objects judge.

    Raises:
        FileNotFoundError: the json is missing.
        UnusableFileError: it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f'no {self.path}, the uncut labels of the scenes: cut the tiles again with '
                '`mtp data import --tile`, or judge the tiles alone by the metric inside'
            )
        try:
            content = json.loads(self.path.read_bytes())
            self.scenes = {entry['name']: _scene(entry) for entry in content['scenes']}
            self.classes: list[str] | None = content.get('classes')
            self.tasks: tuple[str, ...] = tuple(content.get('tasks', ()))
        except (ValueError, KeyError, TypeError) as error:
            raise UnusableFileError(
                f'{self.path} is damaged ({error!r}): cut the tiles again with '
                '`mtp data import --tile`'
            ) from error
        self._of_tile = {
            f'{name}__{side}__{x}___{y}': (name, number)
            for name, scene in self.scenes.items()
            for number, (x, y, side) in enumerate(scene.tiles.tolist())
        }

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse other classes than those of the scenes' objects, which are stored by number.

        Raises:
            UnusableFileError: the classes are others.
        """
        if self.classes is not None and [*map(fold, self.classes)] != [*map(fold, classes)]:
            raise UnusableFileError(
                f'{self.path} has objects of the classes {", ".join(self.classes):.200}, but the '
                f'data set has {", ".join(classes):.200}: give `classes` of the data set in that '
                'order'
            )

    def tile(self, sample: Mapping[str, Any]) -> str:
        """Return the name of the tile that a sample shows.

        Raises:
            UnusableFileError: it is no tile of these scenes.
        """
        name = Path(sample['img_path']).stem
        if name not in self._of_tile:
            raise UnusableFileError(
                f'{sample["img_path"]} is no tile of a scene in {self.path}: take it away, or '
                'cut the tiles again with `mtp data import --tile`'
            )
        return name

    def scene_of(self, tile: str) -> str:
        """Return the name of the scene of a tile."""
        return self._of_tile[tile][0]

    def pixels(self, tile: str, sample: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
        """Return the pixels for which a tile stands (:func:`stands_for`), bool ``(S, S)``.

        Args:
            tile: name of the tile.
            sample: its sample.
            shape: height and width of its label map.

        Raises:
            UnusableFileError: the label map has another size than the tile.
        """
        name, number = self._of_tile[tile]
        stands = stands_for(self.scenes[name], number)
        if tuple(shape) != stands.shape:
            raise UnusableFileError(
                f'the label map of {sample["img_path"]} has height and width {tuple(shape)}, in '
                f'{self.path} its tile has {stands.shape}: cut the tiles again with '
                '`mtp data import --tile`'
            )
        return stands

    def announce(self, tiles: int) -> None:
        """Log that figures of the scenes follow, and how many tiles are missing.

        Args:
            tiles: number of tiles that were evaluated.
        """
        logger, missing = MMLogger.get_current_instance(), len(self._of_tile) - tiles
        if missing > 0:
            logger.warning(
                f'{missing} of {len(self._of_tile)} tiles in {self.path} are not among the images '
                'of this evaluation: their objects count as missed, their pixels are not judged'
            )
        logger.info(f'The same for the {len(self.scenes)} scenes that the tiles were cut from:')


def _scene(entry: dict) -> Scene:
    objects = entry.get('objects', [])
    corners, rotated = (
        np.array([each.get(key, each['corners']) for each in objects], np.float32).reshape(-1, 4, 2)
        for key in ('corners', 'rotated')
    )
    return Scene(
        (entry['height'], entry['width']),
        np.array(entry['tiles'], int).reshape(-1, 3),
        corners,
        rotated,
        np.array([each['label'] for each in objects], int),
        np.array([each['ignored'] for each in objects], bool),
    )


def rotated_boxes(scene: Scene) -> Tensor:
    """Return the rotated boxes of a scene's objects, float32 ``(N, 5)``, in pixels and radians."""
    corners = torch.from_numpy(scene.rotated.reshape(-1, 8))
    return qbox2rbox(corners) if len(corners) else corners.new_zeros(0, 5)


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
