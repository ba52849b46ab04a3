"""From the file of a scene to files of what is found in it."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import shapely

from mtp.data.bands import has_rasterio
from mtp.data.own.vector_labels import Scene as LabelledScene
from mtp.data.own.vector_labels import area_in, read_layer
from mtp.data.tally import Tally
from mtp.files import UnusableFileError
from mtp.prediction.model import ImageModel
from mtp.prediction.results import Detections, Result
from mtp.prediction.run_scene import MAPS, Key, SceneOptions, SceneRun, predict_single
from mtp.prediction.scene_outputs import (
    FileOptions,
    ScenePrediction,
    keep_inputs,
    names_of,
    write_task,
)
from mtp.prediction.scenes import PlainScene, Scene
from mtp.prediction.truth import SCORE, Truth

Progress = Callable[[Path, int, int], None]


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
                :class:`~mtp.prediction.scene_outputs.FileOptions`.

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
            if self.out is not None and not self.run.rows.number():
                shutil.rmtree(self.run.work)  # nothing to go on from
            if isinstance(error, OSError) or str(path) in str(error):
                return error
            return UnusableFileError(f'{path}: {error}')
        return self.found

    def _write(self) -> None:
        run, found = self.run, self.found
        for key in run.keys():
            if key[1] not in (*MAPS, 'classification'):
                found.results[key] = run.objects(key)
            if self.truth and key[1] != 'classification':
                found.figures[key] = _judge(run, key, self.truth, found.results.get(key))
            write_task(run, key, self.stem, self.out, self.files, found, self.score)
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
        confident = out is not None and files.wants_polygons
        run = SceneRun(model, scene, options, work, area, confident)
        if out is not None:
            keep_inputs(run, paths[0].stem, out, files)
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
    classes, _ = names_of(run, key)
    return truth.judge_map(run.map_rows(key), classes, run.scene.scale)
