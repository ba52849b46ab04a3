"""One truth as label files of each form."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mtp.data.formats.object_xml import CORNER_TAGS

Objects = Sequence[tuple[str, np.ndarray]]  # class and corners (4, 2), x and y in pixels
Truth = Mapping[str, Objects]  # stem of the image -> its objects
Size = tuple[int, int]  # height and width of the images in pixels


def bounds(corners: np.ndarray) -> list[float]:
    """Return x1, y1, x2, y2 of a box; two exchanged corners stay so."""
    return [*corners[0].tolist(), *corners[2].tolist()]


def _listed(values: np.ndarray) -> str:
    return ' '.join(map(repr, values.reshape(-1).tolist()))


def coco(
    truth: Truth, classes: Sequence[str], size: Size | Mapping[str, Size], masks: bool = False
) -> dict:
    """Return the content of a COCO json."""
    images, annotations = [], []
    for number, (stem, objects) in enumerate(truth.items()):
        height, width = size[stem] if isinstance(size, Mapping) else size
        images.append(dict(id=number, file_name=f'{stem}.png', height=height, width=width))
        for name, corners in objects:
            x1, y1, x2, y2 = bounds(corners)
            entry = dict(
                id=len(annotations),
                image_id=number,
                category_id=classes.index(name),
                bbox=[x1, y1, x2 - x1, y2 - y1],
            )
            if masks:
                entry['segmentation'] = [corners.reshape(-1).tolist()]
            annotations.append(entry)
    categories = [dict(id=i, name=name) for i, name in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)


def _yolo(name: str, corners: np.ndarray, classes: Sequence[str], size: Size) -> str:
    low, high = np.array(bounds(corners)).reshape(2, 2) / size[::-1]
    return f'{classes.index(name)} {_listed((low + high) / 2)} {_listed(high - low)}'


def _yolo_obb(name: str, corners: np.ndarray, classes: Sequence[str], size: Size) -> str:
    return f'{classes.index(name)} {_listed(corners / size[::-1])}'


def _dota(name: str, corners: np.ndarray, classes: Sequence[str], size: Size) -> str:
    return f'{_listed(corners)} {name} 0'


def _voc(name: str, corners: np.ndarray, classes: Sequence[str], size: Size) -> str:
    sides = zip(('xmin', 'ymin', 'xmax', 'ymax'), bounds(corners))
    box = ''.join(f'<{side}>{value!r}</{side}>' for side, value in sides)
    return f'<object><name>{name}</name><bndbox>{box}</bndbox></object>'


def _fair1m(name: str, corners: np.ndarray, classes: Sequence[str], size: Size) -> str:
    points = ''.join(f'<point>{x!r},{y!r}</point>' for x, y in corners.tolist())
    name = f'<possibleresult><name>{name}</name></possibleresult>'
    return f'<object>{name}<points>{points}</points></object>'


def _dior_r(name: str, corners: np.ndarray, classes: Sequence[str], size: Size) -> str:
    values = zip(CORNER_TAGS, corners.reshape(-1).tolist())
    box = ''.join(f'<{tag}>{value!r}</{tag}>' for tag, value in values)
    return f'<object><name>{name}</name><robndbox>{box}</robndbox></object>'


LINES = dict(dota=_dota, yolo=_yolo, yolo_obb=_yolo_obb, voc=_voc, dior_r=_dior_r, fair1m=_fair1m)
XML = ('voc', 'dior_r', 'fair1m')


def write(form: str, folder: Path, truth: Truth, classes: Sequence[str], size: Size) -> None:
    """Write a json ``all.json`` in a folder, or a label file for each image.

    Args:
        form: ``'coco'`` or a key of :data:`LINES`.
        folder: folder of the label files, which is made.
        truth: objects of each image.
        classes: classes in label order.
        size: height and width of the images in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if form == 'coco':
        (folder / 'all.json').write_text(json.dumps(coco(truth, classes, size)))
        return
    for stem, objects in truth.items():
        text = ''.join(f'{LINES[form](*each, classes, size)}\n' for each in objects)
        if form in XML:
            text = f'<annotation>\n{text}</annotation>\n'
        path = folder / f'{stem}{".xml" if form in XML else ".txt"}'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
