"""Recognition of the form in which a folder holds images and labels."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from mtp.data.description import SPLITS, Description, read_description
from mtp.data.image_files import SUFFIXES, is_hidden
from mtp.data.label_files import parse_xml, read_coco, read_lines
from mtp.files import UnusableFileError

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
    """

    split: str | None
    images: Path
    labels: Path | None = None
    later: Path | None = None
    listed: Path | None = None


@dataclass(frozen=True)
class Found:
    """Form of a folder.

    Attributes:
        root: the folder.
        form: key of :data:`FORMS`.
        parts: its splits, train first.
        description: content of its ``data.yaml``; None if there is none.
    """

    root: Path
    form: str
    parts: tuple[Part, ...]
    description: Description | None = None


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
            return Found(root, _one(root, found), _ordered(found), description)
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
            suffix = path.suffix.lower()
            if suffix in SUFFIXES:
                contents.images.setdefault(path.stem, path)
            elif suffix == '.txt':
                contents.text[path.stem] = path
            elif suffix == '.xml' and not path.name.endswith('.aux.xml'):
                contents.xml[path.stem] = path
            elif suffix == '.json' and not _is_geojson(path):
                contents.json.append(path)
            elif suffix in VECTOR_SUFFIXES:
                contents.vector[path.stem] = path
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
    split = split_of(path, root)
    candidates = [path.parent, *(folder for folder in tree if split_of(folder, root) == split)]
    candidates += [folder for folder in tree if folder not in candidates]
    for folder in candidates:
        if (folder / name).is_file():
            return folder
    raise UnusableFileError(
        f'{path}: its first image, {name!r}, is in no folder below {root}: copy the images there'
    )


def _label_files(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    found = []
    for folder, contents in tree.items():
        for files, form_of in ((contents.xml, _xml_form), (contents.text, _text_form)):
            where = _images_of(folder, files, root, tree)
            if where is None:
                continue
            form = form_of([path for stem, path in files.items() if stem in tree[where].images])
            if form is None:
                continue
            split = split_of(folder, root) or split_of(where, root)
            found += [(form, each) for each in _divided(Part(split, where, folder), root, tree)]
    return found


def _images_of(
    folder: Path, files: Mapping[str, Path], root: Path, tree: Mapping[Path, Contents]
) -> Path | None:
    """Return the folder with the most images that have a file of the same stem in ``folder``."""
    split = split_of(folder, root)
    scores = {
        other: (
            len(set(files) & set(contents.images)),
            split_of(other, root) == split,
            other == folder,
        )
        for other, contents in tree.items()
        if contents.images
    }
    best = max(scores, key=lambda other: scores[other], default=None)
    return best if best is not None and scores[best][0] > 0 else None


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
    scenes = [
        folder
        for folder, contents in tree.items()
        if any(path.suffix.lower() in ('.tif', '.tiff') for path in contents.images.values())
    ]
    found = []
    for folder, contents in tree.items():
        where = _images_of(folder, contents.vector, root, tree)
        if where is None and len(contents.vector) == 1:  # one file over all scenes
            where = next(iter(scenes), None)
            labels = next(iter(contents.vector.values()))
        else:
            labels = folder
        if contents.vector and where in scenes:
            found.append(('vector', Part(split_of(folder, root), where, labels)))
    return found


def _pairs(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    found = []
    for folder in tree:
        below = {other.name.lower(): other for other in tree if other.parent == folder}
        maps = next((below[name] for name in CHANGE_FOLDERS if name in below), None)
        for earlier, later in PAIR_FOLDERS:
            if maps and earlier in below and later in below and tree[below[earlier]].images:
                part = Part(split_of(folder, root), below[earlier], maps, later=below[later])
                found += [('pairs', each) for each in _divided(part, root, tree)]
    return found


def _maps(root: Path, tree: Mapping[Path, Contents]) -> list[tuple[str, Part]]:
    others = {folder: c for folder, c in tree.items() if not _is_below(folder, root, MAP_FOLDERS)}
    found = []
    for folder, contents in tree.items():
        if not contents.images or not _is_below(folder, root, MAP_FOLDERS):
            continue
        where = _images_of(folder, contents.images, root, others)
        if where is not None:
            part = Part(split_of(folder, root), where, folder)
            found += [('maps', each) for each in _divided(part, root, tree)]
    return found


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


def _ordered(found: Iterable[tuple[str, Part]]) -> tuple[Part, ...]:
    order = {split: i for i, split in enumerate((*SPLITS, None))}
    return tuple(sorted((part for _, part in found), key=lambda part: order[part.split]))
