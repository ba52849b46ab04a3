"""Checks that a prepared data set to finetune on holds what its config reads."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mtp.data.box_rules import MIN_SIDE
from mtp.data.class_names import ClassNames
from mtp.data.datasets import DATASETS, DataSet, Split
from mtp.data.decoding import check_unturned, read_size, read_stored
from mtp.data.image_files import is_image
from mtp.data.label_files import read_coco, read_lines
from mtp.data.rotated_labels import read_rotated
from mtp.data.samrs.checking import Findings, Problem
from mtp.data.samrs.to_coco import parallel
from mtp.data.tally import Tally
from mtp.data.values import check_boxes, check_name
from mtp.files import UnusableFileError

CHECKS = {
    'split': 'the folders of the splits exist and hold images',
    'overlap': 'no image is in two splits',
    'image': 'images open, and training turns none of them',
    'class': 'classes are known',
    'partner': 'each image has its label and its later date, and each label an image',
    'size': 'all files of an image have one size',
    'label': 'label files hold known values only',
    'annotation': 'annotations can be read and belong to an image',
    'box': 'boxes have an extent of 1 px or more and lie inside the image',
}


def check_prepared(root: Path, name: str) -> Findings:
    """Check all files that ``mtp data prepare`` made from a data set, on all cores.

    Args:
        root: root folder of the prepared data set.
        name: name of the data set, a key of ``mtp.data.datasets.DATASETS``.

    Raises:
        FileNotFoundError: ``root`` is missing.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'no folder {root}: make it with `mtp data prepare {name}`')
    dataset = DATASETS[name]
    findings = Findings()
    for split, check, items in _TASKS[dataset.task](root, dataset, findings):
        findings.images[split] = len(items)
        if not items:
            findings.problems['split'].append(f'{root}: no images of {split}')
        for objects, problems in parallel(check, items, f'{name} {split}'):
            findings.objects += objects
            for kind, text in problems:
                findings.problems[kind].append(text)
    findings.problems = {kind: texts for kind, texts in findings.problems.items() if texts}
    return findings


Part = tuple[str, partial, list]  # split, function that checks an item, items


def _classification(root: Path, dataset: DataSet, findings: Findings) -> Iterator[Part]:
    seen: dict[str, str] = {}
    for split in dataset.splits:
        find = _listed if split.listed else _in_class_folders
        images = list(find(root, split, dataset.classes, findings))
        for path in images:
            if seen.setdefault(path.name, split.name) != split.name:
                findings.problems['overlap'].append(f'{path}: also in {seen[path.name]}')
        yield split.name, partial(_check_files, None), [(path,) for path in images]


def _in_class_folders(
    root: Path,
    split: Split,
    classes: Sequence[str],
    findings: Findings,
) -> Iterator[Path]:
    where = root / split.images
    there = {path.name for path in where.glob('*/')}
    findings.problems['class'] += [
        f'{where / name}: unknown class' for name in sorted(there - set(classes))
    ]
    findings.problems['class'] += [
        f'{where / name}: no images of this class' for name in classes if not _images(where / name)
    ]
    for name in classes:
        yield from _images(where / name).values()


def _listed(
    root: Path,
    split: Split,
    classes: Sequence[str],
    findings: Findings,
) -> Iterator[Path]:
    for place, line in _lines(root / split.listed, findings):
        name, _, label = line.rpartition(' ')
        if label in map(str, range(len(classes))):
            if found := _named(name, place, findings):
                yield root / split.images / found
        else:
            findings.problems['class'].append(
                f'{place}: {line!r} does not end with a label of 0 to {len(classes) - 1}'
            )


def _maps(root: Path, dataset: DataSet, findings: Findings) -> Iterator[Part]:
    values = dataset.label_values or range(len(dataset.classes))
    for split in dataset.splits:
        folders = filter(None, (split.images, split.later, split.labels))
        yield (
            split.name,
            partial(_check_files, values if split.labels else None),
            _partners([root / folder for folder in folders], findings),
        )


def _horizontal(root: Path, dataset: DataSet, findings: Findings) -> Iterator[Part]:
    for split in dataset.splits:
        path = root / split.labels
        try:
            coco = read_coco(path)
        except (OSError, ValueError) as error:
            findings.problems['annotation'].append(str(error))
            continue
        names, num_classes = ClassNames(dataset.classes, Tally()), len(dataset.classes)
        if {names.find(c['name']) for c in coco['categories']} != set(range(num_classes)):
            findings.problems['class'].append(
                f'{path}: the categories are not the {num_classes} classes'
            )
        ids = {category['id'] for category in coco['categories']}
        of_image = defaultdict(list)
        images = {image['id']: image for image in coco['images']}
        for annotation in coco['annotations']:
            if annotation['image_id'] in images:
                of_image[annotation['image_id']].append(annotation)
            else:
                findings.problems['annotation'].append(
                    f'{path}, annotation {annotation["id"]}: no image {annotation["image_id"]}'
                )
        yield (
            split.name,
            partial(_check_coco, root / split.images, ids),
            [(image, of_image[number]) for number, image in images.items()],
        )


def _rotated(root: Path, dataset: DataSet, findings: Findings) -> Iterator[Part]:
    check = partial(_check_rotated, dataset.classes)
    for split in dataset.splits:
        images, labels = root / split.images, root / split.labels
        image_suffix, label_suffix = split.suffixes
        if split.listed:
            listed = _lines(root / split.listed, findings)
            stems = [name for place, line in listed if (name := _named(line, place, findings))]
        else:
            stems = sorted(path.stem for path in images.glob(f'*{image_suffix}'))
        paths = [images / f'{stem}{image_suffix}' for stem in stems]
        if not split.labels:
            yield split.name, partial(_check_files, None), [(path,) for path in paths]
            continue
        if not split.listed:
            texts = {path.stem for path in labels.glob(f'*{label_suffix}')}
            findings.problems['partner'] += [
                f'{labels / stem}{label_suffix}: no image' for stem in sorted(texts - set(stems))
            ]
        yield (
            split.name,
            check,
            [(path, labels / f'{stem}{label_suffix}') for path, stem in zip(paths, stems)],
        )


_TASKS = {
    'classification': _classification,
    'segmentation': _maps,
    'change_detection': _maps,
    'horizontal_detection': _horizontal,
    'rotated_detection': _rotated,
}


def _lines(path: Path, findings: Findings) -> Iterator[tuple[str, str]]:
    """Yield the place (file and line number) and the text of each line of a list."""
    if not path.is_file():
        findings.problems['split'].append(f'{path}: no such list')
        return
    try:
        yield from read_lines(path)
    except UnusableFileError as error:
        findings.problems['split'].append(str(error))


def _named(name: str, place: str, findings: Findings) -> str | None:
    """Return the name of a file in a list; None, with a finding, if it leads out of the folder."""
    try:
        return check_name(name, place)
    except UnusableFileError as error:
        findings.problems['split'].append(str(error))
        return None


def _images(where: Path) -> dict[str, Path]:
    """Return a folder's images, stem -> path; empty if the folder is missing."""
    paths = sorted(where.iterdir()) if where.is_dir() else []
    return {path.stem: path for path in paths if is_image(path.name)}


def _partners(folders: list[Path], findings: Findings) -> list[tuple[Path, ...]]:
    """Return the files that have the same stem in all folders; report those without partners."""
    files = [_images(folder) for folder in folders]
    stems = set().union(*files)
    findings.problems['partner'] += [
        f'{folder / stem}: missing'
        for folder, found in zip(folders, files)
        for stem in sorted(stems - set(found))
    ]
    return [
        tuple(found[stem] for found in files)
        for stem in files[0]
        if all(stem in found for found in files)
    ]


Checked = tuple[int, list[Problem]]  # number of objects, problems


def _check_files(values: Iterable[int] | None, paths: tuple[Path, ...]) -> Checked:
    """Check that images open and have one size.

    Args:
        values: values that the last file, a label map, may hold; None if all files are images.
        paths: files of an image.
    """
    pixels = []
    for path in paths:
        try:
            pixels.append(read_stored(path))
            check_unturned(path)
        except ValueError as error:
            return 0, [('image', str(error))]
    problems = [
        ('size', f'{path}: {other.shape[:2]}, but {paths[0]} has {pixels[0].shape[:2]}')
        for path, other in zip(paths, pixels)
        if other.shape[:2] != pixels[0].shape[:2]
    ]
    if values is not None:
        unknown = sorted({*np.unique(pixels[-1]).tolist()} - {*values})
        if unknown or pixels[-1].ndim != 2:
            problems.append(
                ('label', f'{paths[-1]}: shape {pixels[-1].shape}, unknown values {unknown[:5]}')
            )
    return 0, problems


def _check_coco(folder: Path, ids: set[int], item: tuple[dict, list[dict]]) -> Checked:
    image, annotations = item
    path = folder / image['file_name']
    height, width = image['height'], image['width']
    _, problems = _check_files(None, (path,))
    if not problems and read_size(path) != (height, width):
        problems.append(('size', f'{path}: {read_size(path)}, in the json {(height, width)}'))
    for annotation in annotations:
        place = f'{path}, annotation {annotation["id"]}'
        if annotation['category_id'] not in ids:
            problems.append(('class', f'{place}: no category {annotation["category_id"]}'))
        try:
            check_boxes([annotation], path)
        except UnusableFileError as error:
            problems.append(('box', str(error)))
            continue
        x, y, w, h = annotation['bbox']
        if min(w, h) < MIN_SIDE or x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
            problems.append(('box', f'{place}: (x, y, w, h) = {annotation["bbox"]}'))
    return len(annotations), problems


def _check_rotated(classes: Sequence[str], item: tuple[Path, Path]) -> Checked:
    image, annotations = item
    _, problems = _check_files(None, (image,))
    if not annotations.is_file():
        return 0, [*problems, ('partner', f'{annotations}: missing')]
    size, tally = None if problems else read_size(image), Tally()
    try:
        boxes = read_rotated(annotations, classes, tally, size)
    except ValueError as error:
        return 0, [
            *problems,
            ('class' if 'is no class' in str(error) else 'annotation', str(error)),
        ]
    problems += [('box', line) for line in tally.lines()]
    if size is not None:
        height, width = size
        for box in boxes:
            x, y = np.reshape(box['bbox'], (4, 2)).mean(0)
            if not (0 <= x <= width and 0 <= y <= height):
                problems.append(
                    (
                        'box',
                        f'{box["place"]}: its centre ({x:.0f}, {y:.0f}) is outside the image',
                    )
                )
    return len(boxes), problems
