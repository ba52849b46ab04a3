"""Reading of text and json that label files hold: each fault is one error with file and place."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from mtp.data.values import check_name, check_size
from mtp.files import UnusableFileError

# byte order mark -> encoding
_MARKS = {b'\xef\xbb\xbf': 'utf-8', b'\xff\xfe': 'utf-16-le', b'\xfe\xff': 'utf-16-be'}
_DECLARED = re.compile(rb'<\?xml[^>]*?encoding\s*=\s*["\']([A-Za-z0-9._-]+)')
# declared encoding -> that of the file: files that declare the smaller sets hold signs of the
# larger one, and one whose declaration can be read byte by byte is not in UTF-16
_TRUE = {'gb2312': 'gb18030', 'gbk': 'gb18030', 'utf-16': 'utf-8'}


def read_text(path: str | Path) -> str:
    """Read a label file; a byte order mark of UTF-8 is passed over.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: it is not UTF-8.
    """
    return _decode(Path(path).read_bytes().removeprefix(b'\xef\xbb\xbf'), 'utf-8', path)


def _decode(data: bytes, encoding: str, path: str | Path) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        name = encoding.upper()
        raise UnusableFileError(
            f'{path}, line {line}: the byte 0x{data[error.start]:02x} is no {name}: convert the '
            'file to UTF-8 (iconv -f latin1 -t utf8)'
        ) from error
    except (LookupError, UnicodeError) as error:
        raise UnusableFileError(
            f'{path} is said to be in the unknown encoding {encoding!r}: convert it to UTF-8'
        ) from error


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield the place (file and line) and the text of each line of a label file.

    Raises:
        FileNotFoundError, UnusableFileError: as in :func:`read_text`.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        yield f'{path}, line {number}', line


def read_json(path: str | Path, kind: str = 'json') -> Any:
    """Read a json file.

    Args:
        path: path of the file.
        kind: name of its format, for the message.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: it is damaged, or too deep or too large to read.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise UnusableFileError(
            f'{path} is no whole {kind}: {reason}. Copy or make it again'
        ) from error


def read_features(path: str | Path) -> list[dict[str, Any]]:
    """Read the features of a geojson.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: it is damaged, or no geojson.
    """
    content = read_json(path, 'geojson')
    features = content.get('features') if isinstance(content, dict) else None
    if not isinstance(features, list) or not all(isinstance(f, dict) for f in features):
        raise UnusableFileError(
            f'{path} is no whole geojson: it has no list of features. Copy it again'
        )
    return features


def parse_xml(path: str | Path) -> tuple[ElementTree.Element, str]:
    """Return the root and the text of an xml file; what could grow in memory, expat refuses.

    Tags are without their namespaces, which do not change what labels mean.

    The encoding is that of the byte order mark, or the one that the file declares, or UTF-8.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: it is damaged, or of an unknown encoding.
    """
    data = Path(path).read_bytes()
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b'')
    declared = _DECLARED.match(data)
    encoding = _MARKS.get(mark) or (declared[1].decode().lower() if declared else 'utf-8')
    text = _decode(data.removeprefix(mark), _TRUE.get(encoding, encoding), path)
    try:
        root = ElementTree.fromstring(text)
        for element in root.iter():
            element.tag = element.tag.rpartition('}')[2]
        return root, text
    except (ElementTree.ParseError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableFileError(
            f'{path} is no whole xml: {str(error) or type(error).__name__}. Copy or make it again'
        ) from error


def read_coco(path: str | Path) -> dict[str, Any]:
    """Read a COCO json, and check its structure, its ids, and the sizes and names of its images.

    Ids and sizes that are whole numbers of another type (``'7'``, ``7.0``) become integers, and
    backslashes in file names slashes. Boxes and masks are left to
    :func:`mtp.data.values.check_boxes` and :func:`mtp.data.run_lengths.encode_mask`.

    Raises:
        FileNotFoundError: the file is missing.
        UnusableFileError: it is damaged, an entry is missing or of another type, or two images,
            annotations or categories share an id, or two images a file; the message names the image
            or annotation.
    """
    coco = read_json(path)
    for kind, keys in _KEYS.items():
        entries = coco.get(kind) if isinstance(coco, dict) else None
        if not isinstance(entries, list):
            raise UnusableFileError(
                f'{path} has no list of {kind}: it is no COCO json with images, annotations and '
                'categories'
            )
        for number, entry in enumerate(entries):
            _check_entry(entry, keys, path, kind, number)
    if len({type(category['id']) for category in coco['categories']}) > 1:
        raise UnusableFileError(f'{path}: ids of categories are numbers and texts: use numbers')
    for annotation in coco['annotations']:
        crowd = annotation.get('iscrowd', 0)
        if crowd not in (0, 1):
            raise UnusableFileError(
                f'{path}, annotation {annotation["id"]}: its iscrowd is {crowd!r:.40}, not 0 or 1: '
                'correct or remove it'
            )
    for image in coco['images']:
        place = f'{path}, image {image["id"]}'
        image['file_name'] = check_name(image['file_name'].replace('\\', '/'), place)
        image['height'], image['width'] = map(_whole, map(image.get, ('height', 'width')))
        check_size(image['height'], image['width'], f'{place} ({image["file_name"]})')
    _check_twice(coco, path)
    return coco


def _check_entry(
    entry: Any, keys: dict[str, Any], path: str | Path, kind: str, number: int
) -> None:
    """Check that an entry has its keys; turn the ids among them into integers where they are."""
    if not isinstance(entry, dict):
        raise UnusableFileError(f'{path}, {kind}[{number}]: {entry!r:.60} is no entry')
    for key, types in keys.items():
        if types is _ID and key in entry:
            entry[key] = _whole(entry[key])
        if not isinstance(entry.get(key), types) or isinstance(entry[key], bool):
            called = entry.get('id', f'number {number} of {kind}')
            raise UnusableFileError(
                f'{path}, {_SINGULAR[kind]} {called!r:.40}: its {key} is '
                + (f'{entry[key]!r:.40}' if key in entry else 'missing')
                + ': correct or remove it'
            )


def _whole(value: Any) -> Any:
    """Return a whole number of another type, such as ``'7'`` or ``7.0``, as int; others as is."""
    if isinstance(value, str) and value.isdecimal() and value == str(int(value[:18])):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_twice(coco: dict[str, Any], path: str | Path) -> None:
    """Refuse entries that share an id, and images that share a file."""
    for kind, name in (('images', 'file_name'), ('categories', 'name'), ('annotations', None)):
        seen: dict[int | str, dict] = {}
        for entry in coco[kind]:
            other = seen.setdefault(entry['id'], entry)
            if other is entry or (kind == 'categories' and other['name'] == entry['name']):
                continue
            names = f' ({other[name]!s:.80} and {entry[name]!s:.80})' if name else ''
            raise UnusableFileError(
                f'{path}: two {kind} have the id {entry["id"]!r:.40}{names}: give each its own'
            )
    files: dict[PurePosixPath, dict] = {}
    for image in coco['images']:
        other = files.setdefault(PurePosixPath(image['file_name']), image)
        if other is not image:
            raise UnusableFileError(
                f'{path}: the images {other["id"]!r:.40} and {image["id"]!r:.40} are both of the '
                f'file {image["file_name"]!s:.80}: keep one, with the annotations of both'
            )


_ID = (int, str)
_KEYS: dict[str, dict[str, Any]] = dict(
    images=dict(id=_ID, file_name=str),
    annotations=dict(id=_ID, image_id=_ID, category_id=_ID),
    categories=dict(id=_ID, name=str),
)
_SINGULAR = dict(images='image', annotations='annotation', categories='category')
