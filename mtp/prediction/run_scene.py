"""Prediction of a scene, row of tiles by row of tiles; an interrupted one goes on."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch

from mtp.evaluation.label_maps import probabilities_of
from mtp.evaluation.tables import SHOWN_SCORE
from mtp.evaluation.tiles import corners_of
from mtp.files import UnusableFileError
from mtp.prediction.blending import Blend
from mtp.prediction.merging import merge, responsible
from mtp.prediction.model import BACKGROUND, ImageModel, Keep
from mtp.prediction.polygons import mask_outlines, pack, unpack
from mtp.prediction.results import Detections
from mtp.prediction.scene_rows import SceneRows
from mtp.prediction.scenes import PlainScene, Scene
from mtp.prediction.tile_grid import Tiles
from mtp.prediction.views import View, views_of
from mtp.sample_fields import IGNORED

SIDE = 512  # of a tile in pixels, where the model's is unknown
WHOLE = 1.5  # sides of a tile up to which an image without a place is predicted as it is
OVERLAP = 0.25  # of neighbouring tiles, share of a side
MAPS = ('segmentation', 'change_detection', 'semantic')  # tasks that label pixels
Key = tuple[str, str]  # data set and task
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SceneOptions:
    """How a scene is predicted.

    Attributes:
        score: smallest score of objects, 0..1.
        classes: names of the classes of objects to keep; None for all.
        max_objects: largest number of objects of a tile.
        dataset: data sets of a multi-task model; None for all.
        batch_size: number of tiles at once.
        tile: side of a tile in pixels of the model; None for the model's own.
        overlap: overlap of neighbouring tiles in pixels; None for a quarter of a tile.
        merge: rule by which objects of several tiles are merged, ``'iou'`` or ``'ios'``.
        blend: rule by which maps are blended, ``'cosine'`` or ``'centre'``.
        tta: kinds of test-time augmentation (:func:`mtp.prediction.views.views_of`).
    """

    score: float = SHOWN_SCORE
    classes: tuple[str, ...] | None = None
    max_objects: int | None = None
    dataset: tuple[str, ...] | None = None
    batch_size: int = 8
    tile: int | None = None
    overlap: int | None = None
    merge: str = 'iou'
    blend: str = 'cosine'
    tta: tuple[str, ...] = ()


class SceneRun:
    """Prediction of one scene.

    Args:
        model: the model.
        scene: the scene, open.
        options: how it is predicted.
        work: folder for finished rows, from which an interrupted run goes on.
        area: polygons in pixels of the model outside of which nothing is computed; None for all.
        confident: whether the probabilities of the classes on label maps are kept.

    Raises:
        UnusableFileError: ``work`` holds the rows of another prediction.
    """

    def __init__(
        self,
        model: ImageModel,
        scene: Scene | PlainScene,
        options: SceneOptions,
        work: Path,
        area: shapely.Geometry | None = None,
        confident: bool = False,
    ) -> None:
        self.model, self.scene, self.options, self.work = model, scene, options, work
        self.area, self.confident = area, confident
        self.views = views_of(options.tta)
        self.keep = Keep(
            model, options.score, options.classes, options.max_objects, options.dataset
        )
        side = options.tile or self._side()
        if model.task == 'classification':
            overlap = 0 if options.overlap is None else options.overlap
        else:
            overlap = round(side * OVERLAP) if options.overlap is None else options.overlap
        if not 0 <= overlap < side:
            raise UnusableFileError(
                f'--overlap {overlap}: give 0 to below the side of a tile, {side}'
            )
        self.tiles = Tiles(scene.size, side, overlap)
        scene.limit_cache(self.tiles.shape[0])
        self.blends: dict[Key, Blend] = {}
        self.rows = SceneRows(work, self.state())

    def _side(self) -> int:
        """Return the side of a tile: the model's own; of a small image without a place, its own."""
        side, longest = self.model.side or SIDE, max(self.scene.size)
        if self.scene.place is not None:
            return side
        whole_image = self.model.task == 'classification' or longest <= WHOLE * side
        return max(side, longest) if whole_image else side

    @property
    def number(self) -> int:
        """Number of tiles."""
        return len(self.tiles.tops) * len(self.tiles.lefts)

    @property
    def share(self) -> float:
        """Memory that a tile takes in a batch, as a multiple of a usual tile's, from 1 on."""
        if self.model.task == 'classification':  # which resizes images
            return 1.0
        height, width = self.tiles.shape
        return max(1.0, height * width / (self.options.tile or self.model.side or SIDE) ** 2)

    def run(self, progress: Progress = lambda done, total: None) -> None:
        """Predict all rows that are not finished yet.

        Args:
            progress: called with the numbers of finished tiles and of all.
        """
        first = self.rows.number()
        columns = len(self.tiles.lefts)
        progress(first * columns, self.number)
        rows = range(self._begin(first), len(self.tiles.tops))
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            batches = _ahead(reader, self._batches(rows))
            writing: Future | None = None
            for row, of_row in itertools.groupby(batches, key=lambda batch: batch[0]):
                content: dict[str, Any] = {}
                self._start(row)
                for _, places, records in of_row:
                    self._predict(places, records, content)
                    progress(row * columns + 1 + self.tiles.lefts.index(places[-1][1]), self.number)
                self._finish(row, content)
                if row < first:  # it was only to blend with the next
                    continue
                if writing is not None:
                    writing.result()
                writing = writer.submit(self.rows.write, row, content)
            if writing is not None:
                writing.result()

    def objects(self, key: Key) -> Detections:
        """Return the objects of the scene, merged, in pixels of the file."""
        found = [self.rows.read(row) for row in range(len(self.tiles.tops))]

        def column(part: str) -> np.ndarray:
            name = f'{_text(key)}/{part}'
            return np.concatenate([each[name] for each in found if name in each])

        boxes, scores, labels, tiles = map(column, ('boxes', 'scores', 'labels', 'tiles'))
        kept = merge(boxes, scores, labels, tiles, self.options.merge)
        if self.area is not None:
            centres = corners_of(boxes[kept]).mean(1)
            kept = kept[shapely.intersects_xy(self.area, *centres.T)]
        outlines = None
        if any(f'{_text(key)}/wkb' in each for each in found):
            outlines = unpack(column('wkb'), column('lengths'))[kept]
            outlines = shapely.transform(outlines, lambda points: points * self.scene.scale)
        boxes = boxes[kept].astype(np.float64)
        scale = self.scene.scale
        boxes[:, :2] *= scale
        # rotated boxes keep right angles: both sides by the mean
        boxes[:, 2:4] *= scale if boxes.shape[1] == 4 else np.sqrt(scale.prod())
        kind = self.keep.kind_of(boxes.shape[1])
        return kind(
            **self.about(key),
            boxes=boxes,
            scores=scores[kept],
            labels=labels[kept],
            outlines=outlines,
            tiles=tiles[kept],
        )

    def map_rows(self, key: Key) -> Iterator[np.ndarray]:
        """Yield the label map from the top, uint8 ``(rows, W)``, 255 where nothing is judged."""
        for row in range(len(self.tiles.tops)):
            yield self.rows.read(row)[_text(key)]

    def confidence_rows(self, key: Key) -> Iterator[np.ndarray]:
        """Yield the probability of each pixel's class from the top, 0..1, ``(rows, W)``."""
        for row in range(len(self.tiles.tops)):
            yield self.rows.read(row)[f'{_text(key)}/confidence'] / np.float32(255)

    def scene_classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the tiles ``(T, 2)``, top and left, and their class scores ``(T, K)``."""
        found = [self.rows.read(row) for row in range(len(self.tiles.tops))]
        places, scores = (
            np.concatenate([each[part] for each in found]) for part in ('places', 'scores')
        )
        return places, scores

    def class_rows(self) -> Iterator[np.ndarray]:
        """Yield the class of each tile at its place, uint8 ``(rows, W)``, from the top."""
        places, scores = self.scene_classes()
        tops, width = self.tiles.tops, self.tiles.shape[1]
        for row, top in enumerate(tops):
            end = tops[row + 1] if row + 1 < len(tops) else self.tiles.size[0]
            labels = np.full((end - top, self.tiles.size[1]), IGNORED, np.uint8)
            for (_, left), of_tile in zip(places[places[:, 0] == top], scores[places[:, 0] == top]):
                labels[:, left : left + width] = of_tile.argmax()
            yield labels

    def keys(self) -> list[Key]:
        """Return the data sets and tasks that are predicted."""
        if self.model.task != 'pretraining':
            return [('', self.model.task)]
        return [
            (name, task)
            for name in self.keep.datasets
            for task in self.model.datasets[name]['tasks']
        ]

    def about(self, key: Key) -> dict[str, Any]:
        """Return what the result of a task has in common with others: classes, size, place."""
        meta = self.model.datasets[key[0] if key[0] else self.keep.datasets[0]]
        classes, palette = tuple(meta['classes']), tuple(map(tuple, meta.get('palette') or ()))
        if key[1] == 'semantic':
            classes, palette = (BACKGROUND, *classes), palette and ((0, 0, 0), *palette)
        return dict(
            classes=classes,
            palette=palette,
            size=self.scene.full,
            source=str(self.scene.path),
            place=self.scene.place,
        )

    # ---- rows of tiles ----

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[int, list, list]]:
        """Yield row, places and records of the tiles of a batch; a batch is of one row."""
        height, width = self.tiles.shape
        for row in rows:
            for places in _parts([*self.tiles.row(row)], self.options.batch_size):
                records = [
                    self.scene.read(top, left, height, width) if self._wanted(top, left) else None
                    for top, left in places
                ]
                yield row, places, records

    def _wanted(self, top: int, left: int) -> bool:
        if self.area is None:
            return True
        height, width = self.tiles.shape
        return self.area.intersects(shapely.box(left, top, left + width, top + height))

    def _start(self, row: int) -> None:
        for blend in self.blends.values():
            blend.start_row(row)

    def _predict(self, places: list, records: list, content: dict[str, Any]) -> None:
        """Predict a batch of tiles, and add what is found to the content of the row."""
        present = [i for i, record in enumerate(records) if record is not None]
        self._note_empty(
            [place for place, record in zip(places, records) if record is None], content
        )
        for i, of_views in zip(present, self._samples([records[i] for i in present])):
            self._add_tile(of_views, records[i], places[i], content)

    def _note_empty(self, places: list, content: dict[str, Any]) -> None:
        """Note tiles without data, whose pixels the tiles above reach into."""
        empty = np.broadcast_to(True, self.tiles.shape)
        for key in self.keys():
            if key[1] in MAPS:
                lost = [(left, empty) for top, left in places if self._wanted(top, left)]
                content.setdefault(f'{_text(key)}/no_data', []).extend(lost)

    def _samples(self, records: Sequence[Mapping]) -> Iterator[tuple]:
        """Return the samples of each record's views, by data set."""
        return zip(
            *(
                self.model.samples([view.apply(record) for record in records], self.keep.datasets)
                for view in self.views
            )
        )

    def _add_tile(
        self, of_views: tuple, record: Mapping, place: tuple[int, int], content: dict[str, Any]
    ) -> None:
        for key in self.keys():
            samples = [each[key[0]] if key[0] else next(iter(each.values())) for each in of_views]
            self._add(key, samples, record, place, content)

    def _add(
        self,
        key: Key,
        samples: list,
        record: Mapping,
        place: tuple[int, int],
        content: dict[str, Any],
    ) -> None:
        """Add what is found in the views of a tile."""
        top, left = place
        name = _text(key)
        if key[1] == 'classification':
            scores = np.mean([each.pred_score.float().cpu().numpy() for each in samples], 0)
            content.setdefault('scores', []).append(scores)
            content.setdefault('places', []).append(place)
        elif key[1] in MAPS:
            logits = np.mean(
                [
                    view.map_back(each.seg_logits.data.float().cpu().numpy(), self.tiles.shape)
                    for view, each in zip(self.views, samples)
                ],
                0,
            )
            if 'no_data' in record:
                content.setdefault(f'{name}/no_data', []).append((left, record['no_data']))
            if key not in self.blends:
                self.blends[key] = Blend(
                    self.tiles, len(logits), self.options.blend, self._labels_of, self.work
                )
                self.blends[key].start_row(self.tiles.tops.index(top))
            self.blends[key].add(left, logits)
        else:
            for view, each in zip(self.views, samples):
                self._add_objects(key, view, each, record, place, content)

    def _add_objects(
        self,
        key: Key,
        view: View,
        sample: Any,
        record: Mapping,
        place: tuple[int, int],
        content: dict[str, Any],
    ) -> None:
        top, left = place
        about = dict(size=self.tiles.shape, source='')
        found = self.keep.of_task(sample, key, record, about)
        assert isinstance(found, Detections)
        boxes = view.boxes_back(found.boxes, self.tiles.shape)
        boxes[:, 0] += left
        boxes[:, 1] += top
        if boxes.shape[1] == 4:
            boxes[:, 2] += left
            boxes[:, 3] += top
        own = responsible(self.tiles, top, left, corners_of(boxes).mean(1))
        parts = dict(
            boxes=boxes[own],
            scores=found.scores[own],
            labels=found.labels[own],
            tiles=np.tile((left, top), (own.sum(), 1)),
        )
        if found.masks is not None:
            outlines = view.outlines_back(mask_outlines(found.masks[own]), self.tiles.shape)
            parts['outlines'] = shapely.transform(outlines, lambda points: points + (left, top))
        for part, values in parts.items():
            content.setdefault(f'{_text(key)}/{part}', []).append(values)

    def _finish(self, row: int, content: dict[str, Any]) -> None:
        """Turn the content of a row into arrays."""
        for key in self.keys():
            name = _text(key)
            if key[1] == 'classification':
                classes = len(self.model.classes)
                content['scores'] = _stacked(content.get('scores', []), (classes,), np.float32)
                content['places'] = _stacked(content.get('places', []), (2,), np.int64)
            elif key[1] in MAPS:
                lost = content.pop(f'{name}/no_data', [])
                content |= self._labels(key, row, lost)
            else:
                width = 5 if key[1] in ('rotated', 'rotated_detection') else 4
                for part, shape, kind in (
                    ('boxes', (width,), np.float32),
                    ('scores', (), np.float32),
                    ('labels', (), np.int64),
                    ('tiles', (2,), np.int64),
                ):
                    parts = content.get(f'{name}/{part}', [])
                    empty = np.zeros((0, *shape), kind)
                    content[f'{name}/{part}'] = np.concatenate([empty, *parts])
                if outlines := content.pop(f'{name}/outlines', None):
                    packed = pack(np.concatenate(outlines))
                    content |= {f'{name}/{part}': values for part, values in packed.items()}

    def _labels(self, key: Key, row: int, lost: list) -> dict[str, np.ndarray]:
        tops, width = self.tiles.tops, self.tiles.size[1]
        last = row == len(tops) - 1
        end = self.tiles.size[0] if last else tops[row + 1]
        shape = end - tops[row], width
        names = (_text(key), f'{_text(key)}/confidence')[: 1 + self.confident]
        if key not in self.blends:  # no tile so far has data
            return {name: np.full(shape, IGNORED, np.uint8) for name in names}
        found = dict(zip(names, self.blends[key].finish_row()))
        self._mark(found[_text(key)], row, lost)
        return found

    def _labels_of(self, logits: np.ndarray) -> np.ndarray:
        """Return the class of each pixel, and if wanted its probability.

        Returns:
            ndarray: uint8 ``(1 or 2, h, w)``: labels, 255 where the logits are NaN; probabilities,
            of 255.
        """
        if len(logits) == 1:  # mmseg's probability of the second class
            threshold = self.model.module.decode_head.threshold  # type: ignore[union-attr]  # a float
            labels = (logits[0] > threshold).astype(np.uint8)
        else:
            labels = logits.argmax(0).astype(np.uint8)
        empty = np.isnan(logits[0])
        found = [labels]
        if self.confident:
            index = labels[None].astype(np.int64)
            own = np.take_along_axis(probabilities_of(torch.from_numpy(logits)), index, 0)[0]
            found.append(np.rint(np.where(empty, 0, own) * 255).astype(np.uint8))
        labels[empty] = IGNORED
        return np.stack(found)

    def _mark(self, labels: np.ndarray, row: int, lost: list) -> None:
        """Ignore pixels without data, also of the rows that the tiles below finish."""
        for left, of_tile in lost:
            part = labels[:, left : left + of_tile.shape[1]]
            part[of_tile[: len(labels)]] = IGNORED
        if self.area is not None:
            from rasterio import Affine
            from rasterio.features import geometry_mask

            shift = Affine.translation(0, self.tiles.tops[row])
            labels[geometry_mask([self.area], labels.shape, shift)] = IGNORED

    # ---- state ----

    def state(self) -> dict[str, Any]:
        """Return what an interrupted run must have in common with one that goes on."""
        return dict(
            checkpoint=self.model.sha256,
            scene=[
                [str(path), path.stat().st_size, path.stat().st_mtime_ns]
                for path in self.scene.files
            ],
            size=list(self.scene.size),
            bands=list(self.scene.bands),
            options=json.loads(json.dumps(asdict(self.options))),
            area=None if self.area is None else shapely.to_wkt(self.area),
            polygons=self.confident,
            stretch=[
                None if each is None else [list(limits) for limits in each.limits]
                for each in self.scene.stretches
            ],
            tiles=[self.tiles.side, self.tiles.overlap, self.tiles.tops, self.tiles.lefts],
            device=str(self.model.device),
            threads=torch.get_num_threads(),
        )

    def _begin(self, first: int) -> int:
        """Return the first row to compute: of maps, the first that reaches into ``first``."""
        tops = self.tiles.tops
        if first == len(tops) or not any(key[1] in MAPS for key in self.keys()):
            return first
        return next(
            row for row in range(first + 1) if tops[row] + self.tiles.shape[0] > tops[first]
        )


def predict_single(runs: Sequence[SceneRun]) -> None:
    """Predict scenes of one tile together; those of more are left to their run.

    So are all of which a part fails: their run says of each what is wrong.

    Args:
        runs: predictions of one model with the same options.
    """
    read: list[tuple[SceneRun, dict]] = []
    for run in runs:
        if run.number > 1 or run.rows.number():
            continue
        with suppress(ValueError, OSError):
            ((_, _, (record,)),) = run._batches([0])
            if record is not None:
                read.append((run, record))
    if not read:
        return
    with suppress(ValueError, OSError):
        found = read[0][0]._samples([record for _, record in read])
        for (run, record), of_views in zip(read, found):
            content: dict[str, Any] = {}
            run._add_tile(of_views, record, (0, 0), content)
            run._finish(0, content)
            run.rows.write(0, content)


def _text(key: Key) -> str:
    return '/'.join(filter(None, key))


def _stacked(values: list, shape: tuple[int, ...], kind: type) -> np.ndarray:
    return np.array(values, kind).reshape(-1, *shape)


def _parts(items: list, number: int) -> Iterator[list]:
    for start in range(0, len(items), number):
        yield items[start : start + number]


def _ahead(reader: ThreadPoolExecutor, batches: Iterator) -> Iterator:
    """Yield batches, the next of which is being read meanwhile."""
    done = object()
    waiting = reader.submit(next, batches, done)
    while (batch := waiting.result()) is not done:
        waiting = reader.submit(next, batches, done)
        yield batch
