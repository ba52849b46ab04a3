"""Images with their labels, in any form, as records of one kind."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from mtp.data.image_files import find_file, find_images, images_by_stem, is_hidden
from mtp.data.label_files import read_coco, read_lines
from mtp.data.own.recognition import FORMS as FORM_NAMES
from mtp.data.own.recognition import VECTOR_FILES, VECTOR_SUFFIXES, Found, Part, is_map
from mtp.data.own.vector_labels import (
    Feature,
    Layer,
    outlines,
    place_features,
    read_layer,
    read_scene,
    rotated_corners,
)
from mtp.data.own.whole_files import check_whole
from mtp.data.run_lengths import encode_mask
from mtp.data.samrs.subsets import SUBSETS
from mtp.data.tally import Tally
from mtp.data.values import check_boxes
from mtp.files import UnusableFileError
from mtp.spelling import compose, fold


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
        seen: folders, images and maps that were read, also those with a fault.
    """

    found: Found
    classes: tuple[str, ...]
    samples: list[Sample] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    faults: list[str] = field(default_factory=list)
    indices: tuple[str, ...] = ()
    seen: set[Path] = field(default_factory=set)

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
    for text in found.notes:
        data.tally.note(text)
    if found.form == 'vector':
        _read_vectors(data, class_column)
    elif found.form == 'coco':
        _read_jsons(data)
    else:
        read = _READERS.get(found.form, _read_files)
        for part in found.parts:
            try:
                read(data, part)
            except UnusableFileError as error:  # the part cannot be read as a whole
                if str(error) not in data.faults:
                    data.faults.append(str(error))
    _count_unread(data)
    data.tally.images = len(data.samples)
    if any(sample.objects for sample in data.samples):
        data.tally.objects = sum(len(sample.objects) for sample in data.samples)
    for sample in data.samples:
        data.tally.of_class.update(data.classes[label] for label in sample.labels)
    return data


def _count_unread(data: Data) -> None:
    """Count the images below the folder that have no labels, or are in no split."""
    root = data.found.root
    divided = {part.images for part in data.found.parts if part.listed is not None}
    for path in data.found.images:
        if path in data.seen or path.parent == root / SUBSETS['sota'].semantic:
            continue  # the import makes those maps, of the masks
        if is_map(path.parent, root):
            reason = 'label maps that are not read'
        elif not data.found.takes(path):
            reason = 'images in no split of data.yaml'
        else:
            listed = path.parent in divided
            reason = 'images in no list of a split' if listed else 'images without labels'
        data.tally.leave_out(reason, str(path))


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
    names, faults = set(), []
    for part in found.parts:
        for path in _by_stem(_json(part), form.suffix).values():
            try:
                names |= {box.name for box in form.read(path, None)}
            except UnusableFileError as error:
                faults.append(str(error))  # named again when the samples are read
    if not names:
        raise UnusableFileError(
            f'{found.root}: its label files name no class: '
            + (
                f'{len(faults):,} cannot be read, the first: {"; ".join(faults[:3])}'
                if faults
                else 'they have no objects; label some'
            )
        )
    return tuple(sorted(merge_names(names), key=str.casefold))


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the label files of a folder, stem -> file, in the order of their names."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == suffix and path.is_file():
            other = files.setdefault(compose(path.stem), path)
            if other != path:
                raise UnusableFileError(f'{path}: {other.name} has the same name: remove one')
    return files


def _read_files(data: Data, part: Part) -> None:
    """Read a label file for each image."""
    form = FORMATS[data.found.form]
    names = ClassNames(data.classes, data.tally)
    labels, images = _json(part), _images(part, data)
    files, known = _by_stem(labels, form.suffix), _stems_of(labels, data)
    for stem, path in files.items() if _is_first(part, data) else ():
        if stem not in known and not _is_other(path, form.numbered):
            data.tally.leave_out('label files without an image', str(path))
    unlabelled = []
    for stem, image in images.items():
        try:
            size = shown_size(image)
            if stem in files:
                boxes = form.read(files[stem], size)
                if form.numbered:
                    boxes = name_classes(boxes, data.indices)
                used = usable(boxes, names, size, form.rotated, data.tally)
            elif form.numbered:
                unlabelled.append(image.name)
                used = []  # YOLO's images without objects have no file
            else:
                path = labels / f'{stem}{form.suffix}'
                raise UnusableFileError(f'{image} has no label file {path}: add it, or remove it')
        except UnusableFileError as error:
            data.faults.append(str(error))
            continue
        objects = tuple(LabelledObject(box, label) for box, label in used)
        data.samples.append(Sample(image, size, data.found.split(image, part), objects))
    if unlabelled:
        data.tally.note(
            f'{len(unlabelled):,} of {len(images):,} images have no label file in {labels}, and so '
            f'no objects: {", ".join(unlabelled[:3])}{", ..." if len(unlabelled) > 3 else ""}'
        )


def _is_first(part: Part, data: Data) -> bool:
    """Return whether a part is the first with its folder of labels, which several may share."""
    return part is next(each for each in data.found.parts if each.labels == part.labels)


def _stems_of(labels: Path, data: Data) -> set[str]:
    """Return the stems of all images that may have a label in a folder."""
    parts = [part for part in data.found.parts if part.labels == labels]
    folders = {part.images for part in parts if part.stems is None or part.stems}
    return {compose(path.stem) for path in data.found.images if path.parent in folders}


def _is_other(path: Path, numbered: bool) -> bool:
    """Return whether a text file beside labels is a list of names or of files."""
    return numbered and path.name in ('classes.txt', 'train.txt', 'val.txt', 'test.txt')


def _read_jsons(data: Data) -> None:
    """Read COCO jsons, each once: of all of them together are the classes, if nothing else."""
    cocos = [(part, read_coco(_json(part))) for part in data.found.parts]
    _check_apart(cocos)
    data.classes = data.classes or _coco_classes([coco for _, coco in cocos])
    if not data.classes:
        raise UnusableFileError(f'{_json(cocos[0][0])} has no categories: add the classes')
    for part, coco in cocos:
        for category in coco['categories']:
            if category['name'] in data.classes and not category['name'].strip():
                raise UnusableFileError(
                    f'{_json(part)}, category {category["id"]}: its name is empty: give it one'
                )
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
    files = [part.images / image['file_name'] for image in coco['images']]
    data.seen.update(filter(data.found.takes, files))
    try:
        check_boxes(coco['annotations'], path)
        of_image = by_image(coco, path)
        labels = match_categories(coco, names, path, data.tally)
    except UnusableFileError as error:
        data.faults.append(str(error))
        return
    for image in sorted(coco['images'], key=lambda image: image['file_name']):
        file = find_file(part.images, image['file_name'])
        if not data.found.takes(file or part.images / image['file_name']):
            continue
        try:
            if file is None:
                file = part.images / image['file_name']
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
        faults = [fault for each in objects if (fault := _bad_mask(each, size)) is not None]
        if faults:  # the image without them would teach their pixels as background
            data.faults += faults
            data.seen.add(file)
            continue
        data.samples.append(Sample(file, size, data.found.split(file, part), objects))


def _coco_object(
    annotation: dict, path: Path, labels: Mapping[int | str, int], classes: Sequence[str]
) -> LabelledObject:
    x, y, w, h = annotation['bbox']
    label = labels[annotation['category_id']]
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], float)
    mask = annotation.get('segmentation')
    if isinstance(mask, list) and all(polygon == [] for polygon in mask):
        mask = None  # [[]] is what some programs write for a box alone
    return LabelledObject(
        Box(f'{path}, annotation {annotation["id"]}', classes[label], corners),
        label,
        mask or None,
        bool(annotation.get('iscrowd')),
    )


def _bad_mask(each: LabelledObject, size: tuple[int, int]) -> str | None:
    """Return what is wrong with the mask of an object, with its place; None if nothing is."""
    try:
        if each.mask:
            encode_mask(each.mask, *size)
    except ValueError as error:
        return f'{each.box.place}: the mask cannot be read: {error}. Correct or remove it'
    return None


def _read_classes(data: Data, part: Part) -> None:
    names = ClassNames(data.classes, data.tally)
    for folder in _folders(part.images):
        label = names.find(folder.name)
        if label is None:
            data.faults.append(
                f'{folder} is the folder of no class; the classes are {", ".join(data.classes)}: '
                'rename or remove it, or correct `names` in data.yaml'
            )
            data.seen.update(find_images(folder, data.tally))
            continue
        for path in filter(data.found.takes, find_images(folder, data.tally)):
            data.seen.add(path)
            _add(data, partial(_scene, path, data.found.split(path, part), label))


def _scene(path: Path, split: str | None, label: int) -> Sample:
    return Sample(path, shown_size(path), split, label=label)


def _read_maps(data: Data, part: Part) -> None:
    images, maps = _images(part, data), _files(_json(part), data)
    data.seen.update(maps.values())
    known = _stems_of(_json(part), data)
    for stem, path in maps.items() if _is_first(part, data) else ():
        if stem not in known:
            data.tally.leave_out('label maps without an image', str(path))
    later = _files(part.later, data) if part.later else None
    data.seen.update(later[stem] for stem in images if later is not None and stem in later)
    for stem, image in images.items():
        if stem not in maps or (later is not None and stem not in later):
            missing = _json(part) if stem not in maps else part.later
            data.faults.append(f'{image}: no file of this name in {missing}: add it, or remove it')
            continue
        date = later[stem] if later is not None else None
        _add(data, partial(_mapped, image, maps[stem], date, data.found.split(image, part)))


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
        labels = _json(part)
        files = {} if labels.is_file() else _vector_files(labels)
        for stem, image in _images(part, data).items():
            try:
                path = labels if labels.is_file() else files.get(stem)
                if path is None:
                    raise UnusableFileError(
                        f'{image} has no vector file {labels / stem}.geojson, .gpkg or .shp: add '
                        'it, or remove it'
                    )
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


def _vector_files(labels: Path) -> dict[str, Path]:
    """Return the vector files of a folder, stem -> file; the first kind of those of one stem."""
    files: dict[str, Path] = {}
    for suffix in VECTOR_SUFFIXES:
        files = _by_stem(labels, suffix) | files
    return files


def _add_scene(data: Data, part: Part, image: Path, layer: Layer, names: ClassNames) -> int:
    """Add a scene with its features; return how many of them are clipped."""
    check_whole(image)
    scene = read_scene(image)
    features = place_features(layer, scene, data.tally)
    objects = tuple(_vector_object(each, names) for each in features)
    data.samples.append(Sample(image, scene.size, data.found.split(image, part), objects))
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
    images = {
        stem: path
        for stem, path in images.items()
        if (part.stems is None or stem in part.stems) and data.found.takes(path)
    }
    if part.listed is not None:
        images = _of_list(part.listed, images, part, data)
    data.seen.update(images.values())
    return images


def _of_list(path: Path, images: Mapping[str, Path], part: Part, data: Data) -> dict[str, Path]:
    """Return those images that a list names."""
    listed = {}
    for place, line in read_lines(path):
        name = compose(line.strip())
        stem = name if name in images else Path(name).stem  # with or without suffix
        if stem in images:
            listed[stem] = images[stem]
        elif name:
            data.faults.append(f'{place}: no image {name!r} in {part.images}')
    return listed


def _files(folder: Path, data: Data, labels: Sequence[str] = ()) -> dict[str, Path]:
    """Return the images of a folder, stem -> file, in the order of their names.

    Raises:
        UnusableFileError: two images have one stem: without the images, labels have no meaning.
    """
    # parts may share a folder, whose other files are counted once
    tally = Tally() if folder in data.seen else data.tally
    data.seen.add(folder)
    try:
        return images_by_stem(folder, tally, labels)
    except UnusableFileError:
        data.seen.update(path for path in data.found.images if path.parent == folder)
        raise


def _folders(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir() and not is_hidden(path.name):
            yield path


def shown_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image in pixels, as training sees it.

    Raises:
        UnusableFileError: it is no image, cut short, or too large.
    """
    size = read_turned_size(path)
    if size is None:
        raise UnusableFileError(f'{path} is no image: restore or remove it')
    check_whole(path)
    return size


_READERS = {
    'classes': _read_classes,
    'maps': _read_maps,
    'pairs': _read_maps,
}
