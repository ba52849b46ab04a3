"""From the file of a scene to files of what is found in it."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from mtp.data.bands import has_rasterio
from mtp.data.own.vector_labels import Scene as LabelledScene
from mtp.data.own.vector_labels import area_in, read_layer
from mtp.data.tally import Tally
from mtp.evaluation.label_maps import backgrounds_of
from mtp.files import UnusableFileError
from mtp.prediction import outputs
from mtp.prediction.model import ImageModel
from mtp.prediction.places import Feature
from mtp.prediction.results import Change, Detections, Result, Segmentation
from mtp.prediction.run_scene import MAPS, Key, SceneOptions, SceneRun, predict_single
from mtp.prediction.scenes import PlainScene, Scene
from mtp.prediction.truth import SCORE, Truth

# Kind of result -> formats that are written unless others are asked for.
DEFAULTS = dict(objects=('geojson',), maps=('tif',))
SUFFIXES = dict(geojson='.geojson', gpkg='.gpkg', coco='.json', dota='.txt', png='.png', tif='.tif')

Progress = Callable[[Path, int, int], None]


@dataclass(frozen=True)
class FileOptions:
    """How a scene is read, and what is written of it.

    Attributes:
        formats: keys of :data:`SUFFIXES`; empty for :data:`DEFAULTS`.
        crs: coordinate reference system of vectors; None for WGS84 in GeoJSON, else the scene's.
        polygonize: whether vectors are made of label maps, too.
        min_area: smallest polygon of a label map in square metres (pixels without a place).
        area: vector file of the ground to predict; None for all.
        truth: vector file of the scene's labels, to judge it by; None not to.
        class_column: column of the class in ``truth``; None to find it.
        bands: bands to read, from 1 on; None for those of the training.
        stretch: rule by which 8 bits are made; None for that of the training.
        gsd: ground sampling distance of the model's images in metres; None for that of the
            training's data; 0 to resample nothing.
    """

    formats: tuple[str, ...] = ()
    crs: str | None = None
    polygonize: bool = False
    min_area: float = 0.0
    area: Path | None = None
    truth: Path | None = None
    class_column: str | None = None
    bands: tuple[int, ...] | None = None
    stretch: str | None = None
    gsd: float | None = None


@dataclass
class ScenePrediction:
    """What is found in a scene.

    Attributes:
        results: data set and task -> objects, or label map; without ``out`` alone for maps.
        files: files that are written.
        notes: what is to be said, such as how the scene was resampled.
        tiles: number of tiles.
        figures: data set and task -> figures against the labels, in percent.
    """

    results: dict[Key, Result] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tiles: int = 0
    figures: dict[Key, dict[str, float]] = field(default_factory=dict)


class Model(ImageModel):
    """A trained model, made by :func:`mtp.load`, that predicts on images and scenes."""

    def predict(
        self,
        scene: str | os.PathLike | tuple[str | os.PathLike, str | os.PathLike],
        out: str | os.PathLike | None = None,
        **options: Any,
    ) -> ScenePrediction:
        """Predict a scene of any size, tile by tile.

        Args:
            scene: file of the scene; of a change detector, a tuple of both dates.
            out: folder for files of what is found; None to return results alone.
            options: fields of :class:`~mtp.prediction.run_scene.SceneOptions` and of
                :class:`FileOptions`.

        Raises:
            UnusableFileError: a file cannot be read, does not fit the model, or an unfinished
                prediction in ``out`` is another one.
            TypeError: an option is unknown.
        """
        paths = [Path(each) for each in (scene if isinstance(scene, tuple) else (scene,))]
        names = {each.name for each in fields(FileOptions)}
        of_files = {key: value for key, value in options.items() if key in names}
        of_scene = {key: value for key, value in options.items() if key not in names}
        folder = None if out is None else Path(out)
        files = FileOptions(**of_files)
        ((_, found),) = predict_scenes(self, [paths], folder, SceneOptions(**of_scene), files)
        if isinstance(found, Exception):
            raise found
        return found


def predict_scenes(
    model: ImageModel,
    jobs: Iterable[Sequence[Path]],
    out: Path | None = None,
    options: SceneOptions | None = None,
    files: FileOptions | None = None,
    progress: Progress = lambda path, done, total: None,
) -> Iterator[tuple[Path, ScenePrediction | ValueError | OSError]]:
    """Predict scenes, and write what is found into a folder.

    Scenes of one tile, such as images, go through the model together. A prediction that was
    interrupted goes on from its last finished row of tiles.

    Args:
        model: the model.
        jobs: file of each scene; of a change detector, those of both dates.
        out: folder to write to; None to return results alone.
        options: how scenes are predicted.
        files: how they are read, and what is written.
        progress: called with a scene, and the numbers of its finished tiles and of all.

    Yields:
        tuple: file of a scene, in the order given, and what is found in it, or the error for which
        it could not be used.
    """
    options, files = options or SceneOptions(), files or FileOptions()
    waiting = iter(jobs)
    while True:
        with ExitStack() as stack:
            group: list[tuple[Path, _Prediction | ValueError | OSError]] = []
            room = float(options.batch_size)
            for paths in waiting:
                try:
                    started = stack.enter_context(_started(model, paths, out, options, files))
                except (ValueError, OSError) as error:
                    group.append((paths[0], error))
                    continue
                group.append((paths[0], started))
                room -= started.run.share
                if room < 1 or started.run.number > 1:
                    break
            if not group:
                return
            predict_single([each.run for _, each in group if isinstance(each, _Prediction)])
            for path, each in group:
                yield path, each.finished(progress) if isinstance(each, _Prediction) else each


@dataclass
class _Prediction:
    """Prediction of a scene that is open.

    Attributes:
        run: its tiles.
        stem: name of its files without suffixes.
        out: folder to write to; None to return results alone.
        files: what is written.
        score: smallest score of objects that are written, 0..1.
        truth: labels to judge it by; None not to.
        found: what is found.
    """

    run: SceneRun
    stem: str
    out: Path | None
    files: FileOptions
    score: float
    truth: Truth | None
    found: ScenePrediction

    def finished(self, progress: Progress) -> ScenePrediction | ValueError | OSError:
        """Predict what is left, and write the files; return what is found, or the error."""
        path = self.run.scene.path
        try:
            self.run.run(lambda done, total: progress(path, done, total))
            self._write()
        except (ValueError, OSError) as error:
            return error
        return self.found

    def _write(self) -> None:
        run, found = self.run, self.found
        for key in run.keys():
            if key[1] not in (*MAPS, 'classification'):
                found.results[key] = run.objects(key)
            if self.truth and key[1] != 'classification':
                found.figures[key] = _judge(run, key, self.truth, found.results.get(key))
            _write(run, key, self.stem, self.out, self.files, found, self.score)
        if self.out is not None:
            shutil.rmtree(run.work)


@contextmanager
def _started(
    model: ImageModel,
    paths: Sequence[Path],
    out: Path | None,
    options: SceneOptions,
    files: FileOptions,
) -> Iterator[_Prediction]:
    """Open a scene, and yield its prediction; close it in the end."""
    with ExitStack() as stack:
        stack.enter_context(_without_notices())
        scene = stack.enter_context(closing(_open(model, paths, files)))
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = temporary if out is None else out / f'.{paths[0].stem}.unfinished'
        area = None if files.area is None else _area(files.area, scene)
        truth = files.truth and Truth(files.truth, _on_map(scene), files.class_column)
        score = options.score
        if truth:
            options = replace(options, score=min(score, SCORE))
        run = SceneRun(model, scene, options, work, area)
        found = ScenePrediction(notes=list(scene.notes), tiles=run.number)
        if scene.place is None:
            found.notes.append(f'{paths[0]} has no place on the map: coordinates are pixels')
        yield _Prediction(run, paths[0].stem, out, files, score, truth or None, found)


def _open(model: ImageModel, paths: Sequence[Path], files: FileOptions) -> Scene | PlainScene:
    if not has_rasterio():
        return PlainScene(paths, model.loader)
    about = dict(model.description.get('scenes') or {})
    gsd = about.get('gsd') if files.gsd is None else files.gsd or None
    later = paths[1] if len(paths) > 1 else None
    return Scene(paths[0], model.loader, about, model.mean, later, files.bands, files.stretch, gsd)


@contextmanager
def _without_notices() -> Iterator[None]:
    """Leave out rasterio's notices of files without a place, of which a note tells."""
    with warnings.catch_warnings():
        if has_rasterio():
            from rasterio.errors import NotGeoreferencedWarning

            warnings.simplefilter('ignore', NotGeoreferencedWarning)
        yield


def _area(path: Path, scene: Scene | PlainScene) -> shapely.Geometry:
    """Return the polygons of a file in pixels of the model."""
    area = area_in(read_layer(path, None, Tally(), classes=False), _on_map(scene))
    if area.is_empty:
        raise UnusableFileError(f'--area {path}: none of its polygons meets {scene.path}')
    return shapely.transform(area, lambda points: points / scene.scale)


def _on_map(scene: Scene | PlainScene) -> LabelledScene:
    """Return where a scene lies, for the readers of vector labels."""
    if isinstance(scene, PlainScene) or scene.place is None:
        raise UnusableFileError(
            f'{scene.path} has no place on the map, so that --area and --truth cannot be laid over '
            'it: leave them out'
        )
    first = scene.dates[0]
    return LabelledScene(scene.path, first.crs, first.transform, scene.full)


def _judge(run: SceneRun, key: Key, truth: Truth, objects: Result | None) -> dict[str, float]:
    """Return the figures of a task against the labels of the scene."""
    if isinstance(objects, Detections):
        return truth.judge_objects(objects)
    classes, _ = _names(run, key)
    return truth.judge_map(run.map_rows(key), classes, run.scene.scale)


def _write(
    run: SceneRun,
    key: Key,
    stem: str,
    out: Path | None,
    files: FileOptions,
    found: ScenePrediction,
    score: float,
) -> None:
    """Make the result of a task, and write its files."""
    scene, task = run.scene, key[1]
    paths = _Paths(out, stem, key, files, found)
    if task == 'classification':
        for path in paths.of(outputs.VECTORS):
            outputs.write_vectors(_grid(run), scene.place, path, files.crs)
        for path in paths.of(('tif',)):
            _write_map(run, key, run.class_rows(), path)
    elif isinstance(objects := found.results.get(key), Detections):
        result = found.results[key] = objects.at_least(score)
        for path in paths.of(outputs.OBJECTS):
            outputs.write_objects(result, path, files.crs)
        for path in paths.of(('png',)):
            outputs.write_picture(result, *scene.picture(outputs.PICTURE), path)
    elif out is None:
        found.results[key] = _segmentation(run, key)
    elif isinstance(scene, PlainScene):
        if 'png' not in files.formats:
            raise UnusableFileError(
                f'{scene.path}: label maps on a map need rasterio, which is not installed: pip '
                'install mtp[geo]; --format png draws them'
            )
        shown, scale = scene.picture(outputs.PICTURE)
        for path in paths.of(('png',)):
            outputs.write_picture(_shrunk(_segmentation(run, key), shown), shown, scale, path)
    else:
        (path,) = paths.of(('tif',), always=True)
        _write_map(run, key, run.map_rows(key), path)
        for vectors in paths.of(outputs.VECTORS, always=files.polygonize):
            features = _polygons(run, key, path, files.min_area)
            outputs.write_vectors(features, scene.place, vectors, files.crs)
        for picture in paths.of(('png',)):
            shown, scale = scene.picture(outputs.PICTURE)
            outputs.write_picture(_reduced(run, key, path, shown), shown, scale, picture)


@dataclass(frozen=True)
class _Paths:
    """Files to write of a task; those that are asked for are noted as written."""

    out: Path | None
    stem: str
    key: Key
    files: FileOptions
    found: ScenePrediction

    def of(self, formats: Sequence[str], always: bool = False) -> list[Path]:
        """Return the paths of wanted formats; with ``always``, at least the first."""
        if self.out is None:
            return []
        kind = 'maps' if self.key[1] in MAPS else 'objects'
        wanted = [form for form in self.files.formats or DEFAULTS[kind] if form in formats]
        if always and not wanted:
            wanted = [formats[0]]
        name = '.'.join((self.stem, *self.key) if self.key[0] else (self.stem,))
        paths = [self.out / f'{name}{SUFFIXES[form]}' for form in wanted]
        self.found.files += paths
        return paths


def _shrunk(result: Segmentation, picture: np.ndarray) -> Segmentation:
    """Return a label map at the size of the scene's picture."""
    size = picture.shape[1::-1]
    return replace(result, labels=cv2.resize(result.labels, size, interpolation=cv2.INTER_NEAREST))


def _reduced(run: SceneRun, key: Key, path: Path, picture: np.ndarray) -> Segmentation:
    """Return a label map on disk at the size of the scene's picture."""
    import rasterio

    with rasterio.open(path) as file:
        labels = file.read(1, out_shape=picture.shape[:2])
    return Segmentation(**run.about(key), labels=labels)


def _names(run: SceneRun, key: Key) -> tuple[tuple[str, ...], Sequence]:
    about = run.about(key)
    return about['classes'], about['palette']


def _write_map(run: SceneRun, key: Key, rows: Any, path: Path) -> None:
    classes, palette = _names(run, key)
    scene = run.scene
    outputs.write_map(rows, scene.size, classes, palette, scene.place, path)


def _segmentation(run: SceneRun, key: Key) -> Segmentation:
    kind = Change if run.scene.loader.is_pair else Segmentation
    about = run.about(key) | dict(size=run.scene.size)
    return kind(**about, labels=np.concatenate([*run.map_rows(key)]))


def _polygons(run: SceneRun, key: Key, path: Path, least: float) -> list[Feature]:
    """Return the areas of a label map in pixels of the scene, without small ones."""
    classes, _ = _names(run, key)
    scene = run.scene
    features = []
    for each in outputs.polygons_of_map(path, classes, backgrounds_of(classes)):
        shape = shapely.transform(each.shape, lambda points: points * scene.scale)
        features.append(Feature(shape, each.properties))
    if not least or not features:
        return features
    shapes = [each.shape for each in features]
    areas = shapely.area(shapes) if scene.place is None else scene.place.areas(shapes)
    return [each for each, area in zip(features, areas) if area >= least]


def _grid(run: SceneRun) -> list[Feature]:
    """Return the tiles of a scene with their classes, in pixels of the scene."""
    places, scores = run.scene_classes()
    height, width = run.tiles.shape
    features = []
    for (top, left), of_tile in zip(places.tolist(), scores):
        label = int(of_tile.argmax())
        frame = shapely.box(left, top, left + width, top + height)
        properties = {
            'class': run.model.classes[label],
            'score': round(float(of_tile[label]), 4),
            'tile': f'{left}_{top}',
        }
        shape = shapely.transform(frame, lambda points: points * run.scene.scale)
        features.append(Feature(shape, properties))
    return features
