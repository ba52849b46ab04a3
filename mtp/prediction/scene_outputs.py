"""Files of what is found in a scene: which are written of a task, and how."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely

from mtp.evaluation.label_maps import backgrounds_of
from mtp.files import UnusableFileError
from mtp.prediction import outputs
from mtp.prediction.places import Feature
from mtp.prediction.polygons import mean_inside
from mtp.prediction.results import Change, Detections, Result, Segmentation
from mtp.prediction.run_scene import MAPS, Key, SceneRun
from mtp.prediction.scenes import PlainScene

# Kind of result -> formats that are written unless others are asked for.
DEFAULTS = dict(objects=('geojson',), maps=('tif',))
SUFFIXES = dict(geojson='.geojson', gpkg='.gpkg', coco='.json', dota='.txt', png='.png', tif='.tif')


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
        inputs: files, resolved, that must not be overwritten beside those of the scene itself.
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
    inputs: frozenset[Path] = frozenset()

    @property
    def wants_polygons(self) -> bool:
        """Whether vectors are made of label maps."""
        return self.polygonize or any(form in outputs.VECTORS for form in self.formats)


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


def write_task(
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
        (path,) = paths.of(('tif',))
        _write_map(run, key, run.map_rows(key), path)
        for vectors in paths.of(outputs.VECTORS):
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

    def of(self, formats: Sequence[str]) -> list[Path]:
        """Return the paths of those of some formats that are written."""
        if self.out is None:
            return []
        wanted = [form for form in forms_of(self.key, self.files) if form in formats]
        paths = [self.out / name_of(self.stem, self.key, form) for form in wanted]
        self.found.files += paths
        return paths


def forms_of(key: Key, files: FileOptions) -> list[str]:
    """Return the formats that are written of a task, keys of :data:`SUFFIXES`."""
    if key[1] not in MAPS:
        return list(files.formats or DEFAULTS['objects'])
    forms = list(files.formats or DEFAULTS['maps'])
    # polygons and pictures are made of the label map on disk
    forms += [] if 'tif' in forms else ['tif']
    if files.polygonize and not any(form in outputs.VECTORS for form in forms):
        forms.append(outputs.VECTORS[0])
    return forms


def name_of(stem: str, key: Key, form: str) -> str:
    """Return the name of a file.

    Args:
        stem: name of the scene without suffix.
        key: data set and task.
        form: key of :data:`SUFFIXES`.
    """
    return '.'.join((stem, *key) if key[0] else (stem,)) + SUFFIXES[form]


def keep_inputs(run: SceneRun, stem: str, out: Path, files: FileOptions) -> None:
    """Check that no input would be overwritten.

    Raises:
        UnusableFileError: a file that would be written is an input.
    """
    own = {path.resolve() for path in (*run.scene.files, files.area, files.truth) if path}
    for key in run.keys():
        for form in forms_of(key, files):
            path = out / name_of(stem, key, form)
            if path.resolve() in own | files.inputs:
                raise UnusableFileError(
                    f'{path} is an input, and would be overwritten: give another folder by --out'
                )


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


def names_of(run: SceneRun, key: Key) -> tuple[tuple[str, ...], Sequence]:
    about = run.about(key)
    return about['classes'], about['palette']


def _write_map(run: SceneRun, key: Key, rows: Any, path: Path) -> None:
    classes, palette = names_of(run, key)
    scene = run.scene
    outputs.write_map(rows, scene.size, classes, palette, scene.place, path)


def _segmentation(run: SceneRun, key: Key) -> Segmentation:
    kind = Change if run.scene.loader.is_pair else Segmentation
    size, place = run.scene.size, run.scene.place
    about = run.about(key) | dict(size=size, place=place and place.resized(size))
    return kind(**about, labels=np.concatenate([*run.map_rows(key)]))


def _polygons(run: SceneRun, key: Key, path: Path, least: float) -> list[Feature]:
    """Return the areas of a label map in pixels of the scene, without small ones.

    Their score is the mean probability of the class.
    """
    classes, _ = names_of(run, key)
    scene = run.scene
    found = list(outputs.polygons_of_map(path, classes, backgrounds_of(classes)))
    scores = mean_inside([each.shape for each in found], run.confidence_rows(key))
    features = []
    for each, score in zip(found, scores.tolist()):
        shape = shapely.transform(each.shape, lambda points: points * scene.scale)
        features.append(Feature(shape, each.properties | dict(score=round(score, 4))))
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
