"""Images with their labels, in any form, as records of one kind."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mtp.data.class_names import ClassNames, first_spellings, merge_names
from mtp.data.coco_objects import by_image, match_categories, take_objects
from mtp.data.decoding import read_turned_size
from mtp.data.formats import FORMATS, Box, usable
from mtp.data.formats.yolo_text import find_names, name_classes
from mtp.data.image_files import find_images, images_by_stem, is_hidden
from mtp.data.label_files import read_coco, read_lines
from mtp.data.own.recognition import FORMS as FORM_NAMES
from mtp.data.own.recognition import VECTOR_FILES, VECTOR_SUFFIXES, Found, Part
from mtp.data.own.vector_labels import (
    Feature,
    Layer,
    outlines,
    place_features,
    read_layer,
    read_scene,
    rotated_corners,
)
from mtp.data.tally import Tally
from mtp.data.values import check_boxes
from mtp.files import UnusableFileError
from mtp.spelling import fold


@dataclass(frozen=True)
class LabelledObject:
    """Object of an image.

    Attributes:
        box: its box, with the class's name.
        label: its class, from 0.
        mask: its mask as in a COCO json, polygons or run lengths; None if it has none.
        crowd: whether it stands for a group of objects.
        rotated: corners of its rotated box, ``(4, 2)``, x and y in pixels, where they are known
            better than from the pixels of the mask; else None.
    """

    box: Box
    label: int
    mask: Any = None
    crowd: bool = False
    rotated: np.ndarray | None = None


@dataclass(frozen=True)
class Sample:
    """Image with its labels.

    Attributes:
        image: its file.
        size: its height and width in pixels, as training sees it.
        split: its split; None for data that are not divided.
        objects: its objects, which all have an area and are partly inside.
        label: its class from 0, of scenes; else None.
        map: its label map or change map; None if it has none.
        later: the later date of a pair; None for a single image.
    """

    image: Path
    size: tuple[int, int]
    split: str | None
    objects: tuple[LabelledObject, ...] = ()
    label: int | None = None
    map: Path | None = None
    later: Path | None = None

    @property
    def labels(self) -> list[int]:
        """Classes of its objects, or its own."""
        return [each.label for each in self.objects] + ([] if self.label is None else [self.label])


@dataclass
class Data:
    """Content of a folder.

    Attributes:
        found: form of the folder.
        classes: names of the classes in label order; empty where values of maps have no names.
        samples: images with their labels, train first, in the order of their names.
        tally: counts, with what was left out.
        faults: what cannot be used, a line each, with file and line.
        indices: names by the index of a class in label files that number the classes; two may be
            spellings of one class.
    """

    found: Found
    classes: tuple[str, ...]
    samples: list[Sample] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    faults: list[str] = field(default_factory=list)
    indices: tuple[str, ...] = ()

    @property
    def rotated(self) -> bool:
        """Whether the boxes are rotated."""
        return self.found.form in FORMATS and FORMATS[self.found.form].rotated

    @property
    def masked(self) -> bool:
        """Whether every object has a mask."""
        objects = [each for sample in self.samples for each in sample.objects]
        return bool(objects) and all(each.mask for each in objects)

    @property
    def label_values(self) -> dict[int | str, str]:
        """Value of a label map -> class, as ``data.yaml`` has it; empty if it does not."""
        return dict(self.found.description.label_values) if self.found.description else {}

    @property
    def map_classes(self) -> tuple[str, ...]:
        """Names of the classes, or, of label maps, those that ``label_values`` names."""
        return self.classes or tuple(dict.fromkeys(self.label_values.values()))

    @property
    def label_folders(self) -> list[Path]:
        """Folders or files of the labels of all splits."""
        return [part.labels for part in self.found.parts if part.labels is not None]


def read_data(found: Found, class_column: str | None = None) -> Data:
    """Read all labels of a folder; faults are collected, not raised.

    Args:
        found: form of the folder.
        class_column: column of the class in vector labels, as in
            :func:`~mtp.data.own.vector_labels.read_layer`.

    Raises:
        UnusableFileError: there are no names for the classes, a file of all labels is damaged, or
            there is a column of classes for other than vector labels.
    """
    if class_column is not None and found.form != 'vector':
        raise UnusableFileError(
            f'--class-column {class_column}: {found.root} holds {FORM_NAMES[found.form]}, which '
            'have no columns: leave it out'
        )
    names = _classes(found)
    data = Data(found, first_spellings(names), indices=names)
    if found.form == 'vector':
        _read_vectors(data, class_column)
    elif found.form == 'coco':
        _read_jsons(data)
    else:
        read = _READERS.get(found.form, _read_files)
        for part in found.parts:
            read(data, part)
    data.tally.images = len(data.samples)
    if any(sample.objects for sample in data.samples):
        data.tally.objects = sum(len(sample.objects) for sample in data.samples)
    for sample in data.samples:
        data.tally.of_class.update(data.classes[label] for label in sample.labels)
    return data


def _classes(found: Found) -> tuple[str, ...]:
    described = found.description.names if found.description else ()
    if described:
        return described
    if found.form == 'classes':
        return merge_names(f.name for part in found.parts for f in _folders(part.images))
    if found.form in FORMATS:
        return _box_classes(found)
    return ('unchanged', 'changed') if found.form == 'pairs' else ()


def _coco_classes(cocos: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the categories that have objects, in the order of their ids; all if none has any."""
    names: list[str] = []
    used = set()
    for coco in cocos:
        with_objects = {annotation['category_id'] for annotation in coco['annotations']}
        for category in sorted(coco['categories'], key=lambda category: category['id']):
            names.append(category['name'])
            if category['id'] in with_objects:
                used.add(fold(category['name']))
    return tuple(name for name in first_spellings(names) if not used or fold(name) in used)


def _json(part: Part) -> Path:
    assert part.labels is not None
    return part.labels


def _box_classes(found: Found) -> tuple[str, ...]:
    """Return the names in the label files, sorted; those of a list where classes are numbered."""
    form = FORMATS[found.form]
    if form.numbered:
        folders = [found.root, *(folder for p in found.parts for folder in (p.images, _json(p)))]
        listed = find_names(dict.fromkeys([*folders, *(folder.parent for folder in folders[1:])]))
        if listed is None:
            raise UnusableFileError(
                f'{found.root}: its labels number the classes, and nothing names them: add a '
                'classes.txt with a name a line, or `names` in a data.yaml'
            )
        return tuple(listed[1])
    names = set()
    for part in found.parts:
        for path in sorted(_json(part).glob(f'*{form.suffix}')):
            try:
                names |= {box.name for box in form.read(path, None)}
            except UnusableFileError:
                continue  # named when the samples are read
    return tuple(sorted(merge_names(names), key=str.casefold))


def _read_files(data: Data, part: Part) -> None:
    """Read a label file for each image."""
    form = FORMATS[data.found.form]
    names = ClassNames(data.classes, data.tally)
    labels, images = _json(part), _images(part, data)
    for path in sorted(labels.glob(f'*{form.suffix}')):
        if path.stem not in images and part.listed is None and not _is_other(path, form.numbered):
            data.tally.leave_out('label files without an image', str(path))
    unlabelled = []
    for stem, image in images.items():
        path = labels / f'{stem}{form.suffix}'
        try:
            size = shown_size(image)
            if path.is_file():
                boxes = form.read(path, size)
                if form.numbered:
                    boxes = name_classes(boxes, data.indices)
                used = usable(boxes, names, size, form.rotated, data.tally)
            elif form.numbered:
                unlabelled.append(image.name)
                used = []  # YOLO's images without objects have no file
            else:
                raise UnusableFileError(f'{image} has no label file {path}: add it, or remove it')
        except UnusableFileError as error:
            data.faults.append(str(error))
            continue
        objects = tuple(LabelledObject(box, label) for box, label in used)
        data.samples.append(Sample(image, size, part.split, objects))
    if unlabelled:
        data.tally.note(
            f'{len(unlabelled):,} of {len(images):,} images have no label file in {labels}, and so '
            f'no objects: {", ".join(unlabelled[:3])}{", ..." if len(unlabelled) > 3 else ""}'
        )


def _is_other(path: Path, numbered: bool) -> bool:
    """Return whether a text file beside labels is a list of names or of files."""
    return numbered and path.name in ('classes.txt', 'train.txt', 'val.txt', 'test.txt')


def _read_jsons(data: Data) -> None:
    """Read COCO jsons, each once: of all of them together are the classes, if nothing else."""
    cocos = [(part, read_coco(_json(part))) for part in data.found.parts]
    _check_apart(cocos)
    data.classes = data.classes or _coco_classes([coco for _, coco in cocos])
    for part, coco in cocos:
        _read_coco(data, part, coco)


def _check_apart(cocos: Sequence[tuple[Part, dict[str, Any]]]) -> None:
    """Refuse two jsons over one image, unless each is of a split: its objects would count twice."""
    first: dict[Path, list[Part]] = {}
    for part, coco in cocos:
        for file in dict.fromkeys(part.images / image['file_name'] for image in coco['images']):
            others = first.setdefault(file, [])
            for other in others:
                if part.split == other.split or None in (part.split, other.split):
                    raise UnusableFileError(
                        f'{_json(other)} and {_json(part)} both have labels of {file}: keep the '
                        'one that is meant, and move the other out of the folder'
                    )
            others.append(part)


def _read_coco(data: Data, part: Part, coco: dict[str, Any]) -> None:
    path = _json(part)
    names = ClassNames(data.classes, data.tally)
    try:
        check_boxes(coco['annotations'], path)
        of_image = by_image(coco, path)
        labels = match_categories(coco, names, path, data.tally)
    except UnusableFileError as error:
        data.faults.append(str(error))
        return
    for image in sorted(coco['images'], key=lambda image: image['file_name']):
        file = part.images / image['file_name']
        try:
            if not file.is_file():
                raise UnusableFileError(f'{file}: no such image, but {path} lists it: restore it')
            size = shown_size(file)
            if size != (image['height'], image['width']):
                raise UnusableFileError(
                    f'{file} has height and width {size}, in {path.name} it has '
                    f'{(image["height"], image["width"])}: make the labels again from this image'
                )
        except UnusableFileError as error:
            data.faults.append(str(error))
            continue
        taken = take_objects(image, of_image[image['id']], path, data.tally)
        objects = tuple(_coco_object(each, path, labels, data.classes) for each in taken)
        data.samples.append(Sample(file, size, part.split, objects))


def _coco_object(
    annotation: dict, path: Path, labels: Mapping[int | str, int], classes: Sequence[str]
) -> LabelledObject:
    x, y, w, h = annotation['bbox']
    label = labels[annotation['category_id']]
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], float)
    return LabelledObject(
        Box(f'{path}, annotation {annotation["id"]}', classes[label], corners),
        label,
        annotation.get('segmentation') or None,
        bool(annotation.get('iscrowd')),
    )


def _read_classes(data: Data, part: Part) -> None:
    names = ClassNames(data.classes, data.tally)
    for folder in _folders(part.images):
        label = names.find(folder.name)
        if label is None:
            data.faults.append(
                f'{folder} is the folder of no class; the classes are {", ".join(data.classes)}: '
                'rename or remove it, or correct `names` in data.yaml'
            )
            continue
        for path in find_images(folder, data.tally):
            _add(data, partial(_scene, path, part.split, label))


def _scene(path: Path, split: str | None, label: int) -> Sample:
    return Sample(path, shown_size(path), split, label=label)


def _read_maps(data: Data, part: Part) -> None:
    images, maps = _images(part, data), _files(_json(part), data)
    for stem, path in maps.items():
        if stem not in images:
            data.tally.leave_out('label maps without an image', str(path))
    later = _files(part.later, data) if part.later else None
    for stem, image in images.items():
        if stem not in maps or (later is not None and stem not in later):
            missing = _json(part) if stem not in maps else part.later
            data.faults.append(f'{image}: no file of this name in {missing}: add it, or remove it')
            continue
        date = later[stem] if later is not None else None
        _add(data, partial(_mapped, image, maps[stem], date, part.split))


def _mapped(image: Path, label: Path, later: Path | None, split: str | None) -> Sample:
    size = _same_size(image, label, later)
    return Sample(image, size, split, map=label, later=later)


def _same_size(image: Path, *others: Path | None) -> tuple[int, int]:
    size = shown_size(image)
    for other in others:
        if other is not None and shown_size(other) != size:
            raise UnusableFileError(
                f'{other} has height and width {shown_size(other)}, but {image} has {size}: all '
                'files of an image have one size'
            )
    return size


def _read_vectors(data: Data, class_column: str | None) -> None:
    """Read vector files: one over all scenes of a folder, or one for each scene."""
    layers: dict[Path, Layer] = {}
    scenes: dict[Path, list[tuple[Part, Path]]] = {}
    for part in data.found.parts:
        for stem, image in _images(part, data).items():
            try:
                path = _vector_file(_json(part), stem, image)
                if path not in layers:
                    layers[path] = read_layer(path, class_column, data.tally)
                scenes.setdefault(path, []).append((part, image))
            except UnusableFileError as error:
                data.faults.append(str(error))
    if data.faults and not layers:
        raise UnusableFileError(data.faults[0])
    if not data.classes:
        found = {name for layer in layers.values() for name in layer.names}
        data.classes = tuple(sorted(merge_names(found), key=str.casefold))
    names = ClassNames(data.classes, data.tally)
    for path, layer in layers.items():
        cut, faults = 0, len(data.faults)
        for part, image in scenes[path]:
            try:
                cut += _add_scene(data, part, image, layer, names)
            except UnusableFileError as error:
                data.faults.append(str(error))
        if len(data.faults) == faults:
            _check_met(layer, len(scenes[path]), data)
        if cut:
            data.tally.note(f'{path}: {cut:,} features are clipped at the border of an image')


def _check_met(layer: Layer, scenes: int, data: Data) -> None:
    """Count the features that no scene holds; that none holds any is a fault."""
    if len(layer.met) and not layer.met.any():
        data.faults.append(
            f'{layer.path}: all {len(layer.met):,} features are outside of '
            f'{"the image" if scenes == 1 else f"all {scenes} images"}: they belong to others, or '
            f'their coordinate reference system is not {layer.crs}, as the file says'
        )
        return
    for index in np.flatnonzero(~layer.met):
        data.tally.leave_out('features outside of the images', layer.place(index))


def _vector_file(labels: Path, stem: str, image: Path) -> Path:
    if labels.is_file():
        return labels
    for suffix in VECTOR_SUFFIXES:
        if (labels / f'{stem}{suffix}').is_file():
            return labels / f'{stem}{suffix}'
    raise UnusableFileError(
        f'{image} has no vector file {labels / stem}.geojson, .gpkg or .shp: add it, or remove it'
    )


def _add_scene(data: Data, part: Part, image: Path, layer: Layer, names: ClassNames) -> int:
    """Add a scene with its features; return how many of them are clipped."""
    scene = read_scene(image)
    features = place_features(layer, scene, data.tally)
    objects = tuple(_vector_object(each, names) for each in features)
    data.samples.append(Sample(image, scene.size, part.split, objects))
    return sum(each.cut for each in features)


def _vector_object(feature: Feature, names: ClassNames) -> LabelledObject:
    label = names.label(feature.name, feature.place)
    x1, y1, x2, y2 = feature.shape.bounds
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)
    return LabelledObject(
        Box(feature.place, names.classes[label], corners),
        label,
        mask=outlines(feature.shape),
        rotated=rotated_corners(feature.shape),
    )


def _add(data: Data, make: Callable[[], Sample]) -> None:
    try:
        data.samples.append(make())
    except UnusableFileError as error:
        data.faults.append(str(error))


def _images(part: Part, data: Data) -> dict[str, Path]:
    form = data.found.form
    labels = [FORMATS[form].suffix] if form in FORMATS else []
    images = _files(part.images, data, VECTOR_FILES if form == 'vector' else labels)
    if part.listed is None:
        return images
    listed = {}
    for place, name, stem in _names(part.listed, images):
        if stem in images:
            listed[stem] = images[stem]
        else:
            data.faults.append(f'{place}: no image {name!r} in {part.images}')
    lists = [p.listed for p in data.found.parts if p.listed and p.images == part.images]
    if part.listed == lists[-1]:  # once for all of them
        named = {stem for path in lists for _, _, stem in _names(path, images)}
        for stem in images:
            if stem not in named:
                data.tally.leave_out('images that no list names', str(images[stem]))
    return listed


def _names(path: Path, images: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield place, name and stem for each line of a list; a name is with or without suffix."""
    for place, line in read_lines(path):
        if name := line.strip():
            yield place, name, name if name in images else Path(name).stem


def _files(folder: Path, data: Data, labels: Sequence[str] = ()) -> dict[str, Path]:
    """Return the images of a folder, stem -> file, in the order of their names."""
    try:
        return images_by_stem(folder, data.tally, labels)
    except UnusableFileError as error:
        data.faults.append(str(error))
        return {}


def _folders(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir() and not is_hidden(path.name):
            yield path


def shown_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image in pixels, as training sees it.

    Raises:
        UnusableFileError: it is no image, or too large.
    """
    size = read_turned_size(path)
    if size is None:
        raise UnusableFileError(f'{path} is no image: restore or remove it')
    return size


_READERS = {
    'classes': _read_classes,
    'maps': _read_maps,
    'pairs': _read_maps,
}
