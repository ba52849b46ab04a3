"""Recognition of the form in which a folder holds images and labels."""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from mtp.data.description import SPLITS, Description, read_description
from mtp.data.image_files import SUFFIXES, find_file, is_hidden
from mtp.data.label_files import parse_xml, read_coco, read_lines
from mtp.files import UnusableFileError
from mtp.spelling import compose

# Word in the name of a folder or list -> split.
SPLIT_WORDS = {
    **dict.fromkeys(('train', 'training', 'trainval'), 'train'),
    **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
    **dict.fromkeys(('test', 'testing'), 'test'),
}
MAP_FOLDERS = (
    'labels',
    'label',
    'masks',
    'mask',
    'annotations',
    'gt',
    'segmentationclass',
    'ann_dir',
    'ann',
)
IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'img_dir', 'jpegimages')
LIST_FOLDERS = ('imagesets', 'list', 'lists', 'splits')  # of lists of the images of a split
# Names of the folders of the earlier and the later date, and of the change maps.
PAIR_FOLDERS = (('a', 'b'), ('t1', 't2'), ('im1', 'im2'), ('time1', 'time2'), ('before', 'after'))
CHANGE_FOLDERS = ('label', 'labels', 'mask', 'masks', 'gt', 'out', 'cm')
VECTOR_SUFFIXES = ('.geojson', '.gpkg', '.shp', '.json')  # a .json that is a GeoJSON
# and files that belong to a shapefile or a scene
VECTOR_FILES = (*VECTOR_SUFFIXES, '.shx', '.dbf', '.prj', '.cpg', '.qpj', '.sbn', '.sbx', '.tfw')
DEPTH = 4  # folders below the given one that are looked at
SAMPLED = 20  # label files of a folder whose first lines show its form

FORMS = {
    'coco': 'COCO json',
    **{
        'dota': 'DOTA text',
        'yolo': 'YOLO text',
        'yolo_obb': 'YOLO-OBB text',
        'voc': 'VOC xml',
        'dior_r': 'DIOR-R xml',
        'fair1m': 'FAIR1M xml',
    },
    'vector': 'vector labels over GeoTIFF',
    'maps': 'label maps',
    'pairs': 'pairs of images with change maps',
    'classes': 'a folder for each class',
}


@dataclass(frozen=True)
class Part:
    """Images and labels of a split.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``; None for data that are not divided.
        images: folder of the images, or of the folders of the classes.
        labels: folder of the label files or maps, or one file of all labels; None for the folders
            of classes.
        later: folder of the later date of pairs.
        listed: list of the split's images, a name a line; None for all.
        stems: names without suffix of its images; None for all. Other images of the folder have
            their labels in other folders.
    """

    split: str | None
    images: Path
    labels: Path | None = None
    later: Path | None = None
    listed: Path | None = None
    stems: frozenset[str] | None = None


@dataclass(frozen=True)
class Found:
    """Form of a folder.

    Attributes:
        root: the folder.
        form: key of :data:`FORMS`.
        parts: its splits, train first.
        description: content of its ``data.yaml``; None if there is none.
        images: all images below the folder, label maps among them.
        named: folder, or image of a list, that ``data.yaml`` names, as an absolute path -> its
            split; None where that names no split, or several, and the folders decide.
        notes: what was read otherwise than it stands, a line each.
    """

    root: Path
    form: str
    parts: tuple[Part, ...]
    description: Description | None = None
    images: tuple[Path, ...] = ()
    named: Mapping[Path, str | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def takes(self, image: Path) -> bool:
        """Return whether an image is in a split of ``data.yaml``; True if there is none."""
        return not self.named or self._name(image) is not None

    def split(self, image: Path, part: Part) -> str | None:
        """Return the split of an image: what ``data.yaml`` says, else that of its part."""
        name = self._name(image)
        return part.split if name is None else self.named[name] or part.split

    def _name(self, image: Path) -> Path | None:
        return next((each for each in _with_parents(image) if each in self.named), None)


def recognise(path: Path, form: str | None = None) -> Found:
    """Find the form of a folder, or of what a ``data.yaml`` describes.

    Args:
        path: folder, or ``data.yaml``.
        form: key of :data:`FORMS`, which decides where files have two meanings; None to find it.

    Raises:
        FileNotFoundError: there is no such folder, or no images in it.
        UnusableFileError: no form fits, several do, or a file that shows the form is damaged.
    """
    description = _description(path)
    root = description.root if description else path
    if not root.is_dir():
        raise FileNotFoundError(f'no folder {root}: give the folder of the data, or a data.yaml')
    tree = _walk(root)
    if not any(contents.images for contents in tree.values()):
        raise FileNotFoundError(
            f'no images below {root}, {DEPTH} folders deep ({", ".join(SUFFIXES)})'
        )
    for search in (_coco, _label_files, _vector, _pairs, _maps, _class_folders):
        found = search(root, tree)
        if form is not None:
            found = [(form if _ambiguous(kind) else kind, part) for kind, part in found]
            found = [(kind, part) for kind, part in found if kind == form]
        if found:
            one = _one(root, found)
            _check_one_label(part for _, part in found)
            images = tuple(path for each in tree.values() for path in each.images.values())
            whole = Found(root, one, tuple(part for _, part in found), description, images)
            return _with_splits(whole)
    wanted = FORMS[form] if form else ', '.join(FORMS.values())
    raise UnusableFileError(
        f'{root}: its images have no labels in a form that is known ({wanted}): see '
        'docs/your_data.md for the folders of each form'
    )


@dataclass
class Contents:
    """Files of a folder by their kind: stem -> file."""

    images: dict[str, Path] = field(default_factory=dict)
    text: dict[str, Path] = field(default_factory=dict)
    xml: dict[str, Path] = field(default_factory=dict)
    json: list[Path] = field(default_factory=list)
    vector: dict[str, Path] = field(default_factory=dict)


def _description(path: Path) -> Description | None:
    if path.suffix in ('.yaml', '.yml'):
        return read_description(path)
    for name in ('data.yaml', 'data.yml'):
        if (path / name).is_file():
            return read_description(path / name)
    return None


def _walk(root: Path) -> dict[Path, Contents]:
    """Return the contents of a folder and of those below it, in the order of their names."""
    tree: dict[Path, Contents] = {}
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop(0)
        contents = tree[folder] = Contents()
        for path in sorted(folder.iterdir()):
            if is_hidden(path.name):
                continue
            if path.is_dir():
                if depth < DEPTH:
                    waiting.append((path, depth + 1))
                continue
            suffix, stem = path.suffix.lower(), compose(path.stem)
            if suffix in SUFFIXES:
                contents.images.setdefault(stem, path)
            elif suffix == '.txt':
                contents.text[stem] = path
            elif suffix == '.xml' and not path.name.endswith('.aux.xml'):
                contents.xml[stem] = path
            elif suffix == '.json' and not _is_geojson(path):
                contents.json.append(path)
            elif suffix in VECTOR_SUFFIXES:
                contents.vector[stem] = path
    return tree


def _is_geojson(path: Path) -> bool:
    """Return whether a json is a GeoJSON, by its first 64 kB; its type may stand after ``crs``."""
    with open(path, 'rb') as file:
        return re.search(rb'"type"\s*:\s*"FeatureCollection"', file.read(1 << 16)) is not None


def split_of(path: Path, root: Path) -> str | None:
    """Return the split that a path names below a root; None if it names none."""
    for part in reversed(path.relative_to(root).parts):
        for word in re.split(r'[^a-z]+', part.lower()):  # instances_val2017.json
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return None


def _coco(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    found = []
    for path in (path for contents in tree.values() for path in contents.json):
        if not _is_coco(path):
            continue
        images = read_coco(path)['images']
        if images:
            where = _folder_of(images[0]['file_name'], path, root, tree)
            found.append(('coco', Part(split_of(path, root), where, path)))
    return found


def _is_coco(path: Path) -> bool:
    """Return whether a json has COCO's three lists; a damaged one is left to its reader."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return b'"annotations"' in path.read_bytes()[:1_000_000]
    return isinstance(content, dict) and {'images', 'annotations', 'categories'} <= set(content)


def _folder_of(name: str, path: Path, root: Path, tree: Mapping[Path, Contents]) -> Path:
    """Return the folder below which the images of a COCO json lie."""
    labels = path.with_suffix('')  # annotations/a.json is for images/a
    fits = {
        folder: (
            folder == path.parent,
            not is_map(folder, root),
            _parallel(labels, folder, root),
            *_nearness(labels, folder, root),
        )
        for folder in tree
        if find_file(folder, name) is not None
    }
    best = [folder for folder in fits if fits[folder] == max(fits.values())]
    if not best:
        raise UnusableFileError(
            f'{path}: its first image, {name!r}, is in no folder below {root}: copy the images '
            'there'
        )
    if len(best) > 1:
        raise UnusableFileError(
            f'{path}: its first image, {name!r}, is in {best[0]} and in {best[1]}: lay the json '
            'beside its images, or move the others away'
        )
    return best[0]


def _label_files(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    images = {folder: contents.images for folder, contents in tree.items() if contents.images}
    stems = {stem for files in images.values() for stem in files}
    found = []
    for kind, form_of in (('xml', _xml_form), ('text', _text_form)):
        forms, labels = {}, {}
        for folder, contents in tree.items():
            files = getattr(contents, kind)
            matched = [path for stem, path in files.items() if stem in stems]
            try:
                form = form_of(matched or [*files.values()])
            except UnusableFileError:
                if matched:
                    raise
                continue  # a text of another kind
            if form is not None:
                forms[folder], labels[folder] = form, files
        parts = _paired(labels, images, root)
        for part in parts:
            assert part.labels is not None
            found += [(forms[part.labels], each) for each in _divided(part, root, tree)]
        # folders of labels whose images are missing, to be counted
        for folder in sorted(labels.keys() - {part.labels for part in parts}):
            if any(kind == forms[folder] for kind, _ in found):
                lost = Part(split_of(folder, root), folder, folder, stems=frozenset())
                found.append((forms[folder], lost))
    return found


def _paired(
    labels: Mapping[Path, Collection[str]], images: Mapping[Path, Collection[str]], root: Path
) -> list[Part]:
    """Pair folders of label files with folders of images.

    Where names repeat over folders, as ``1.png`` of each city, a label belongs to the image whose
    folder is the parallel one. A folder without a parallel one may serve several others.

    Args:
        labels: folder -> names of its label files, without suffix.
        images: folder -> names of its images, without suffix.
        root: the folder above all.

    Raises:
        UnusableFileError: two images fit a label alike.
    """
    met: dict[tuple[Path, Path], set[str]] = defaultdict(set)
    owned = set()  # folders of images that have a parallel folder of labels
    for folder, stems in labels.items():
        exact = {
            other: (_parallel(folder, other, root), other == folder)
            for other in images
            if not set(stems).isdisjoint(images[other])
        }
        best = max(exact.values(), default=(False, False))
        for other, fit in exact.items():
            if any(best) and fit == best:
                met[folder, other] |= set(stems) & set(images[other])
                owned.add(other)
    owners = {folder for folder, _ in met}
    for folder, stems in labels.items():
        done = {stem for (label, _), found in met.items() if label == folder for stem in found}
        others = {}
        for other in images:
            fit_of = _nearness(folder, other, root)
            # a label that its own folder of images lacks is not one of the next city's
            apart = folder in owners and (other in owned or not fit_of[0])
            if not apart and not _of_other_splits(folder, other, root):
                others[other] = (other not in owned, *fit_of)
        for stem in [stem for stem in stems if stem not in done]:
            fits = {other: fit for other, fit in others.items() if stem in images[other]}
            for other in fits:
                if fits[other] == max(fits.values()):
                    met[folder, other].add(stem)
    _check_one_image(met)
    number = Counter(other for _, other in met)
    parts = []
    for (folder, other), found in met.items():
        split = split_of(folder, root)
        # images without a label are of this split only if all others are
        whole = number[other] == 1 and (split is None or split_of(other, root) is not None)
        split = split or split_of(other, root)
        parts.append(Part(split, other, folder, stems=None if whole else frozenset(found)))
    return parts


def _parallel(labels: Path, images: Path, root: Path) -> bool:
    """Return whether two paths differ in one folder alone, which holds images by its name."""
    names, others = labels.relative_to(root).parts, images.relative_to(root).parts
    differing = [(a.lower(), b.lower()) for a, b in zip(names, others) if a != b]
    return (
        len(names) == len(others)
        and len(differing) == 1
        and differing[0][0] not in IMAGE_FOLDERS
        and differing[0][1] in IMAGE_FOLDERS
    )


def _nearness(labels: Path, images: Path, root: Path) -> tuple[bool, bool, bool, int]:
    """Return how well a folder of labels fits one of images that is not parallel to it."""
    names, others = labels.relative_to(root).parts, images.relative_to(root).parts
    depth = min(len(names), len(others))
    above = root.joinpath(*names[:depth]), root.joinpath(*others[:depth])
    common = next((i for i in range(depth) if names[i] != others[i]), depth)
    return (
        _parallel(*above, root),  # one is divided, such as images/train, the other is not
        split_of(labels, root) == split_of(images, root),
        len(names) == len(others) and sum(a != b for a, b in zip(names, others)) == 1,
        common,
    )


def _of_other_splits(one: Path, other: Path, root: Path) -> bool:
    splits = {split_of(one, root), split_of(other, root)}
    return len(splits) == 2 and None not in splits


def _check_one_image(met: Mapping[tuple[Path, Path], Collection[str]]) -> None:
    """Check that no label belongs to two images."""
    first: dict[tuple[Path, str], Path] = {}
    for (folder, images), stems in met.items():
        for stem in sorted(stems):
            other = first.setdefault((folder, stem), images)
            if other != images:
                raise UnusableFileError(
                    f'{folder}: its file {stem!r} fits images in {other} and in {images} alike: '
                    'lay the images and the labels of a part side by side, such as '
                    'city/images and city/labels, or move the other images away'
                )


def _check_one_label(found: Iterable[Part]) -> None:
    """Check that no image has labels in two places, which would make two samples of it."""
    parts: dict[Path, list[Part]] = defaultdict(list)
    for part in found:
        for other in parts[part.images]:
            stems = [each.stems for each in (part, other) if each.stems is not None]
            if part.labels == other.labels or not stems:
                continue  # divided by lists, or in one json each
            for stem in sorted(frozenset.intersection(*stems))[:1]:
                raise UnusableFileError(
                    f'{part.images}: its image {stem!r} has labels in {other.labels} and in '
                    f'{part.labels}: move one of the two away'
                )
        parts[part.images].append(part)


def _divided(part: Part, root: Path, tree: Mapping[Path, Contents]) -> list[Part]:
    """Return a part for each split that has a list, such as VOC's ``ImageSets/*/<split>.txt``.

    The list ``trainval.txt`` is of the training where there is no ``train.txt``.
    """
    if part.split is not None:
        return [part]
    found: dict[str, Path] = {}
    for other, contents in tree.items():
        if _is_below(other, root, LIST_FOLDERS):
            for name in (*SPLITS, 'trainval'):
                if name in contents.text:
                    found.setdefault(name, contents.text[name])
    both = found.pop('trainval', None)
    if both is not None:
        found.setdefault('train', both)
    return [replace(part, split=split, listed=path) for split, path in found.items()] or [part]


def _xml_form(paths: list[Path]) -> str | None:
    for path in paths[:SAMPLED]:
        tree = parse_xml(path)[0]
        for element in tree.iter('object'):
            if element.find('points') is not None:
                return 'fair1m'
            if element.find('robndbox') is not None:
                return 'dior_r'
            if element.find('bndbox') is not None:
                return 'voc'
    return None


def _text_form(paths: list[Path]) -> str | None:
    """Return the form of text labels; ``'yolo|yolo_obb'`` for lines of nine numbers."""
    kinds: Counter[str] = Counter()
    for path in paths[:SAMPLED]:
        for _, line in islice(read_lines(path), 10):
            kind = _line_form(line.split())
            if kind:
                kinds[kind] += 1
    if not kinds:
        return None
    if set(kinds) <= {'yolo', 'yolo|yolo_obb'}:
        # polygons have any number of corners; boxes of rotated objects always four
        return 'yolo' if 'yolo' in kinds else 'yolo|yolo_obb'
    return kinds.most_common(1)[0][0]


def _line_form(fields: list[str]) -> str | None:
    numbers = [bool(re.fullmatch(r'[-+]?[0-9]*\.?[0-9]+(e[-+]?[0-9]+)?', f, re.I)) for f in fields]
    if len(fields) >= 9 and all(numbers[:8]) and not numbers[8]:
        return 'dota'
    if fields and all(numbers):
        if len(fields) == 9:
            return 'yolo|yolo_obb'
        if len(fields) == 5 or (len(fields) >= 7 and len(fields) % 2):
            return 'yolo'
    return None


def _ambiguous(kind: str) -> bool:
    return '|' in kind


def _vector(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    scenes = {
        folder: contents.images
        for folder, contents in tree.items()
        if any(path.suffix.lower() in ('.tif', '.tiff') for path in contents.images.values())
    }
    files = {folder: contents.vector for folder, contents in tree.items() if contents.vector}
    parts = _paired(files, scenes, root)
    paired = {part.labels for part in parts}
    single = {  # files over all scenes
        next(iter(found.values())): folder
        for folder, found in files.items()
        if folder not in paired and len(found) == 1
    }
    for path, folder in single.items():
        # all scenes of the one file, else those that are nearest to each
        fits = {
            other: (_parallel(folder, other, root), *_nearness(folder, other, root))
            for other in scenes
        }
        for other, fit in fits.items():
            if len(files) == 1 or fit == max(fits.values()):
                split = split_of(other, root) or split_of(folder, root)
                parts.append(Part(split, other, path, stems=frozenset(scenes[other])))
    return [('vector', part) for part in parts]


def _pairs(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    found, met = [], {}
    for folder in tree:
        below = {other.name.lower(): other for other in tree if other.parent == folder}
        maps = next((below[name] for name in CHANGE_FOLDERS if name in below), None)
        for names in PAIR_FOLDERS:
            if maps is None or not {*names} <= {*below}:
                continue
            earlier, later = (below[name] for name in names)
            for images in tree:  # A itself, or A/train and A/val
                if tree[images].images and earlier in (images, *images.parents):
                    part_of = images.relative_to(earlier)
                    second, changes = (
                        each / part_of if each / part_of in tree else each for each in (later, maps)
                    )
                    for partner in (second, changes):
                        met[partner, images] = tree[images].images
                    part = Part(split_of(images, root), images, changes, later=second)
                    found += [('pairs', each) for each in _divided(part, root, tree)]
    _check_one_image(met)
    return found


def _maps(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    maps: dict[Path, Collection[str]] = {}
    images: dict[Path, Collection[str]] = {}
    for folder, contents in tree.items():
        if contents.images:
            kind = maps if is_map(folder, root) else images
            kind[folder] = contents.images
    parts = _paired(maps, images, root)
    return [('maps', each) for part in parts for each in _divided(part, root, tree)]


def is_map(folder: Path, root: Path) -> bool:
    """Return whether the images of a folder are label maps, by its name or one above it."""
    return _is_below(folder, root, MAP_FOLDERS)


def _is_below(folder: Path, root: Path, names: Collection[str]) -> bool:
    """Return whether a folder, or one between it and the root, has one of some names."""
    return any(part.lower() in names for part in folder.relative_to(root).parts)


def _class_folders(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    """Return the folders of the classes' folders: the outermost ones below the root or a split."""
    holding = {
        above for folder in tree if tree[folder].images for above in (folder, *folder.parents)
    }
    found: list[tuple[str, Part]] = []
    classes: set[str] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop(0)
        below = [other for other in tree if other.parent == folder and other in holding]
        names = {other.name.lower() for other in below}
        split = split_of(folder, root)
        splits = [other for other in below if other.name.lower() in SPLIT_WORDS]
        if splits and len(splits) < len(below):
            other = next(each for each in below if each not in splits)
            raise UnusableFileError(
                f'{other} lies beside {splits[0]}, which is named as a split: move or rename one '
                'of the two, so that a folder holds either splits or classes'
            )
        divided = all(split_of(other, folder) for other in below)
        # a split may lack classes; else one folder alone holds them all
        if divided or names & {*IMAGE_FOLDERS} or (len(below) == 1 and split is None):
            waiting += below
            continue
        _check_outermost(folder, below, holding, tree)
        found.append(('classes', Part(split, folder)))
        classes |= names
    return found if len(classes) > 1 else []


def _check_outermost(
    folder: Path, below: Sequence[Path], holding: Collection[Path], tree: Mapping[Path, Contents]
) -> None:
    """Refuse folders that may be sources of images rather than classes, or that hold splits."""
    inner = [{each.name for each in holding if each.parent == other} for other in below]
    names, nested = sorted(other.name for other in below), sorted(set().union(*inner))
    if any(name.lower() in SPLIT_WORDS for name in nested):
        raise UnusableFileError(
            f'{folder}: its classes {", ".join(names[:3])} hold the splits '
            f'{", ".join(nested[:3])}: make it a folder for each split, with the folders of the '
            'classes in it'
        )
    bare = not any(tree[other].images for other in below)
    if bare and all(each == inner[0] for each in inner) and 1 < len(below) < len(nested):
        raise UnusableFileError(
            f'{folder}: its classes may be {", ".join(names[:3])}, or {", ".join(nested[:3])}, '
            'which each of them holds: of the former, put the images directly into their folders; '
            f'of the latter, merge the folders below {folder}, or give {below[0]} alone'
        )


def _one(root: Path, found: Iterable[tuple[str, Part]]) -> str:
    """Return the one form of all parts."""
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    if len(kinds) == 1 and not _ambiguous(kinds[0]):
        return kinds[0]
    forms = [form for kind in kinds for form in kind.split('|')]
    raise UnusableFileError(
        f'{root}: its labels can be read as {" or as ".join(FORMS[form] for form in forms)}: '
        f'give --format {" or --format ".join(forms)}'
        + (
            ' (lines of nine numbers are corners of a rotated box in one, of a mask in the other)'
            if len(kinds) == 1
            else ', or move the others away'
        )
    )


def _with_splits(found: Found) -> Found:
    """Return what is found with the splits that its ``data.yaml`` names, train first."""
    parts, description = list(found.parts), found.description
    if description is not None:
        named, notes = _named(description, parts)
        held = {each for image in found.images for each in _with_parents(image)}
        lost = [str(each) for each in named if each not in held]
        if lost:
            notes.append(
                f'{description.path} names {len(lost):,} folders or files without images that are '
                f'read ({", ".join(SUFFIXES)}, up to {DEPTH} folders below {found.root}): '
                f'{", ".join(lost[:3])}{", ..." if len(lost) > 3 else ""}'
            )
        found = replace(found, named=named, notes=tuple(notes))
        parts = []
        for part in found.parts:
            images = [path for path in found.images if _holds(part, path) and found.takes(path)]
            splits = {found.split(path, part) for path in images}
            if splits:
                parts.append(replace(part, split=splits.pop()) if len(splits) == 1 else part)
        if not parts:
            raise UnusableFileError(
                f'{description.path}: its {", ".join(description.splits)} name no '
                f'image with labels below {found.root}: correct them'
            )
    order = {split: i for i, split in enumerate((*SPLITS, None))}
    return replace(found, parts=tuple(sorted(parts, key=lambda part: order[part.split])))


def _holds(part: Part, image: Path) -> bool:
    return part.images in image.parents and (
        part.stems is None or compose(image.stem) in part.stems
    )


def _named(
    description: Description, parts: Iterable[Part]
) -> tuple[dict[Path, str | None], list[str]]:
    """Return the split of each folder and image that a ``data.yaml`` names, and notes on them."""
    root = Path(os.path.abspath(description.root))
    splits: dict[Path, list[str]] = defaultdict(list)
    for split, entries in description.splits.items():
        for entry in entries:
            for path in [entry] if entry.is_dir() else _listed(entry, description):
                path = Path(os.path.abspath(path))
                if root not in _with_parents(path):
                    raise UnusableFileError(
                        f'{description.path}: {split} names {path}, which is not below {root}: '
                        'give `path`, the folder above all splits'
                    )
                splits[path].append(split)
    named, notes = dict[Path, str | None](), []
    for path, names in splits.items():
        names = list(dict.fromkeys(names))
        named[path] = names[0] if len(names) == 1 and len(description.splits) > 1 else None
        own = {part.split for part in parts if path in _with_parents(part.images)}
        above = next((each for each in path.parents if each in splits), None)
        if above and splits[above] != splits[path] and path.is_dir():
            notes.append(
                f'{description.path} names {path.relative_to(root)} as {names[0]}, and it is in '
                f'{above.relative_to(root)}, the folder of {splits[above][0]}: it is in '
                f'{names[0]} alone'
            )
        if len(names) > 1 and len(own) < 2:  # json files may divide one folder
            named[path] = None if 'train' in names else names[0]
            notes.append(
                f'{description.path} names {path.relative_to(root)} as {" and as ".join(names)}: '
                + (
                    'it would be validated on what it is trained on, so this divides nothing'
                    if 'train' in names
                    else f'it is read as {names[0]} alone'
                )
            )
    return named, notes


def _with_parents(path: Path) -> list[Path]:
    """Return a path and the folders above it, absolute and without ``..``."""
    path = Path(os.path.abspath(path))
    return [path, *path.parents]


def _listed(path: Path, description: Description) -> Iterator[Path]:
    """Yield the images of a list that a ``data.yaml`` names; its lines are as ultralytics'."""
    if path.suffix != '.txt':
        raise UnusableFileError(
            f'{description.path}: {path} is neither a folder of images nor a list of them (.txt): '
            'give one of both'
        )
    for place, line in read_lines(path):
        name = line.strip()
        found = (folder / name for folder in (path.parent, description.root))
        image = next((each for each in found if name and each.is_file()), None)
        if image is not None:
            yield image
        elif name:
            raise UnusableFileError(
                f'{place}: no image {name!r} in {path.parent}: correct or remove this line'
            )
