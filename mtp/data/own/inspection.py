"""Inspection of a folder: classes, counts, sizes, equal images in two splits, faults."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtp.data.bands import read_picture, stored_type
from mtp.data.decoding import read_header, read_image, read_map
from mtp.data.map_values import count_values, judge, list_values
from mtp.data.own.contents import Data, LabelledObject, Sample
from mtp.data.own.equal_images import leave_out_equal
from mtp.data.own.importing import TASKS, kind_of
from mtp.data.own.recognition import FORMS
from mtp.data.samrs.records import palette
from mtp.files import UnusableFileError
from mtp.painting import Colour, outline, write

TILE, COLUMNS = 320, 4  # side of a sample in the picture, pixels, and samples of a row


@dataclass
class Inspection:
    """What is found in a folder.

    Attributes:
        data: its content.
        task: finetuning task, or ``'pretraining'``, that it is imported for.
        images: split -> number of images.
        objects: split -> number of objects, or of images, of each class.
        sizes: height and width of images in pixels -> number of images.
        values: values of label maps with their counts; empty if there are none.
        kinds: bands and type of images, such as ``'4 bands of uint16'`` -> number of images.
        faults: what is to be mended, a line each.
    """

    data: Data
    task: str
    images: Counter[str] = field(default_factory=Counter)
    objects: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    values: str = ''
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the json that ``mtp data inspect --json`` prints."""
        tally = self.data.tally
        return dict(
            root=str(self.data.found.root),
            form=self.data.found.form,
            task=self.task,
            classes=list(self.data.classes),
            images=dict(self.images),
            objects={split: dict(counts) for split, counts in self.objects.items()},
            sizes={f'{width} x {height}': n for (height, width), n in self.sizes.most_common()},
            values=self.values,
            kinds=dict(self.kinds),
            left_out={reason: places for reason, places in tally.left_out.items() if places},
            notes=tally.notes,
            faults=self.faults,
        )


def inspect(data: Data) -> Inspection:
    """Count the content of a folder, and look for faults in it."""
    found = Inspection(data, TASKS[kind_of(data)], faults=list(data.faults))
    for sample in data.samples:
        split = sample.split or 'all'
        found.images[split] += 1
        found.sizes[sample.size] += 1
        found.kinds[_kind(sample.image)] += 1
        found.objects[split].update(data.classes[label] for label in sample.labels)
    found.faults += leave_out_equal(data.samples)[1]
    if data.found.form in ('maps', 'pairs'):
        _judge_maps(found)
    return found


def _judge_maps(found: Inspection) -> None:
    """Count the values of the label maps, and judge them as training does."""
    data = found.data
    try:
        counts = count_values(data.found.root, data.label_folders)
        found.values = list_values(counts)
        if data.map_classes:
            given = data.label_values or None
            judge(counts, str(data.found.root), data.map_classes, given, data.tally)
        else:
            data.tally.note(
                'the classes of the label maps have no names: give `names`, or `label_values`, in '
                'data.yaml'
            )
    except ValueError as error:
        found.faults.append(str(error))


def _kind(path: Path) -> str:
    """Return bands and type of an image, such as ``'4 bands of uint16'``."""
    with open(path, 'rb') as file:
        header = read_header(file)
    if header is not None and header.bits <= 8 and header.bands in (1, 3):
        return '8-bit RGB' if header.bands == 3 else '8-bit grey'
    try:
        count, dtype = stored_type(path)
    except UnusableFileError:  # rasterio is not installed
        return 'unknown' if header is None else f'{header.bands} bands of {header.bits} bits'
    return f'{count} band{"s" if count > 1 else ""} of {dtype}'


def report(found: Inspection, examples: int = 10) -> str:
    """Return the inspection as text.

    Args:
        found: result of :func:`inspect`.
        examples: largest number of faults, and of things left out for one reason, that are listed.
    """
    tally, splits = found.data.tally, list(found.images)
    lines = [
        f'{found.data.found.root}: {FORMS[found.data.found.form]}, for {found.task}',
        tally.summary(),
        '',
        f'{"":<28}' + ''.join(f'{split:>10}' for split in splits),
        f'{"images":<28}' + ''.join(f'{found.images[split]:>10,}' for split in splits),
    ]
    for name in found.data.classes if any(found.objects.values()) else ():
        counts = ''.join(f'{found.objects[split][name]:>10,}' for split in splits)
        lines.append(f'{name:<28.28}{counts}')
    sizes = [f'{width} x {height} ({n:,})' for (height, width), n in found.sizes.most_common(5)]
    more = len(found.sizes) - len(sizes)
    lines += ['', f'sizes: {", ".join(sizes)}' + (f', {more} others' if more > 0 else '')]
    if found.values:
        lines.append(f'values: {found.values}')
    lines.append('bands: ' + ', '.join(f'{kind} ({n:,})' for kind, n in found.kinds.most_common()))
    lines += [f'note: {text}' for text in tally.notes]
    for reason, places in tally.left_out.items():
        lines += [f'left out, {reason}: {len(places):,}', *_first(places, examples)]
    if found.faults:
        lines += [f'faults: {len(found.faults):,}', *_first(found.faults, examples)]
    else:
        lines.append('faults: none')
    return '\n'.join(lines)


def _first(texts: list[str], number: int) -> list[str]:
    more = len(texts) - number
    return [f'  {text}' for text in texts[:number]] + ([f'  and {more:,} more'] if more > 0 else [])


def draw_page(data: Data, number: int = 12) -> np.ndarray:
    """Draw samples with their labels on a page, uint8 RGB ``(H, W, 3)``, spread over the classes.

    Args:
        data: content of a folder with at least one sample.
        number: largest number of samples.
    """
    colours = palette(max(len(data.classes), 256))
    tiles = [_draw(data, sample, colours) for sample in _spread(data, number)]
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    page = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // columns * TILE, number % columns * TILE
        page[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return page


def _spread(data: Data, number: int) -> list[Sample]:
    """Return samples such that each class is among them as early as possible."""
    shown: Counter[int] = Counter()
    waiting, chosen = list(data.samples), list[Sample]()
    while waiting and len(chosen) < number:
        best = min(waiting, key=lambda sample: min((shown[i] for i in sample.labels), default=99))
        chosen.append(best)
        waiting.remove(best)
        shown.update({*best.labels})
    return chosen


def _draw(data: Data, sample: Sample, colours: list[Colour]) -> np.ndarray:
    pixels = _pixels(sample)
    scale = TILE / max(pixels.shape[:2])
    tile = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if sample.map is not None:
        _shade_map(tile, sample.map, colours)
    for each in sample.objects:
        for corners in _outlines(each):
            outline(tile, (corners * scale).round().astype(int), colours[each.label])
    name = sample.image.stem if sample.label is None else data.classes[sample.label]
    counts = Counter(data.classes[each.label] for each in sample.objects)
    text = ', '.join(f'{n} {name}' for name, n in counts.most_common(3)) or name
    cv2.rectangle(tile, (0, 0), (tile.shape[1], 16), (30, 30, 30), cv2.FILLED)
    write(tile, text[:45], (3, 12), (255, 255, 255))
    return tile[:TILE, :TILE]


def _outlines(each: LabelledObject) -> list[np.ndarray]:
    """Return the polygons of an object, corners ``(N, 2)``; those of its box if it has none."""
    if isinstance(each.mask, list):
        return [np.reshape(ring, (-1, 2)) for ring in each.mask]
    return [each.box.corners if each.rotated is None else each.rotated]


def _pixels(sample: Sample) -> np.ndarray:
    """Return an image for a picture, uint8 RGB; a grey one where it cannot be read."""
    try:
        return read_image(sample.image)
    except UnusableFileError:  # also of other than 8-bit RGB
        pass
    try:
        count, _ = stored_type(sample.image)
        return read_picture(sample.image, [1, 2, 3] if count > 2 else [1])
    except UnusableFileError:
        return np.full((*sample.size, 3), 128, np.uint8)


def _shade_map(tile: np.ndarray, path: Path, colours: list[Colour]) -> None:
    values = read_map(path)
    values = values if values.ndim == 2 else values[..., 0]
    values = values.astype(np.uint8) if values.dtype == bool else values  # OpenCV knows no bool
    values = cv2.resize(values, tile.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    for value in np.unique(values):
        if value:
            mask = values == value
            tile[mask] = tile[mask] * 0.5 + np.array(colours[int(value) % len(colours)]) * 0.5
