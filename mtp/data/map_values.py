"""Values of label maps: counted over all files of a data set, and read as its classes by one rule.

The stored values count: grey values, or indices of a palette. The rule, also in docs/labels.md:

- with ``label_values``, each value is the class that it names;
- values below the number of classes are the classes, and 255 beside them is ignored;
- two classes and only 0 and the type's maximum: the maximum is the second class;
- JPEG does not keep values: two classes are cut at 128;
- anything else is refused, with the values and their counts.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtp.data.class_names import ClassNames
from mtp.data.decoding import MAP_KINDS, read_header, read_map_values
from mtp.data.image_files import find_images
from mtp.data.index import Column, Entry, cached_index
from mtp.data.samrs.to_coco import parallel
from mtp.data.tally import Tally
from mtp.files import UnusableFileError
from mtp.sample_fields import IGNORED

LabelValues = Mapping[int | str, str | None]
KINDS = (*MAP_KINDS, 'missing')  # the last one for pixels without data, under the value 0
CUT = 128  # grey values of a JPEG from here on are the second class
_GREY = 0x010101  # the colour of grey 1
_UNKNOWN = 254  # label of a value that the rule does not know
FEW = 100  # label maps of 1000 x 1000 pixels that are counted without a progress bar
MAX_VALUES = 4096  # a file with more values is no label map
_BLOCK = 1 << 24  # pixels that are counted at a time
_COLUMNS = {name: Column('value', np.int64) for name in ('kinds', 'files', 'pixels')}


@dataclass
class Count:
    """How often a value occurs.

    Attributes:
        files: number of files that hold it.
        pixels: number of pixels.
        example: first of the files.
    """

    files: int = 0
    pixels: int = 0
    example: str = ''


Counts = dict[str, dict[int, Count]]  # kind -> value -> its count


@dataclass(frozen=True)
class MapRule:
    """What the values of a data set's label maps mean.

    Attributes:
        tables: kind -> values, sorted, and the label of each, uint8.
    """

    tables: dict[str, tuple[np.ndarray, np.ndarray]]

    def read(self, path: str | Path, size: tuple[int, int]) -> np.ndarray:
        """Read a label map: labels, uint8 ``(H, W)``, 255 for ignored pixels.

        Args:
            path: path of the file.
            size: height and width of its image in pixels.

        Raises:
            UnusableFileError: the file is missing, damaged or of another size, or holds a value
                that it did not hold when the values were counted.
        """
        stored = read_map_values(path, size)
        kind, values = stored.kind, stored.values
        if values.shape != tuple(size):
            raise UnusableFileError(
                f'{path} has shape {values.shape}, but its image has {tuple(size)}: a label map '
                'and its image have one size'
            )
        known, labels = self.tables.get(kind, (np.zeros(0, np.int64), np.zeros(0, np.uint8)))
        table = np.full(256, _UNKNOWN, np.uint8)
        if values.dtype == np.uint8:
            table[known] = labels
            found = table[values]
        elif not known.size:
            found = np.full(values.shape, _UNKNOWN, np.uint8)
        else:
            places = np.searchsorted(known, values).clip(max=known.size - 1)
            found = np.where(known[places] == values, labels[places], np.uint8(_UNKNOWN))
        if stored.missing is not None:
            found[stored.missing] = IGNORED
        wrong = found == _UNKNOWN
        if wrong.any():
            raise UnusableFileError(
                f'{path} holds the value {_shown(kind, int(values[wrong][0]))}, which no label map '
                'held when this run started: restore the file, or start again'
            )
        return found


def read_rule(
    root: Path,
    folders: Sequence[Path],
    classes: Sequence[str],
    label_values: LabelValues | None,
    tally: Tally,
) -> MapRule:
    """Return the rule for the label maps of a data set.

    Args:
        root: root folder of the data set, beside which the counts are kept.
        folders: folders of label maps, of all splits.
        classes: names in label order.
        label_values: value, or colour as ``'#rrggbb'``, -> class, or None for ignored pixels; None
            if the values speak for themselves.
        tally: counts of the reader, for the notes.

    Raises:
        UnusableFileError: a file is no label map, or the values have no one meaning.
    """
    return judge(count_values(root, folders), str(root), classes, label_values, tally)


# ---- counting ----


def count_values(root: Path, folders: Sequence[Path]) -> Counts:
    """Count the values in all label maps below some folders; an index keeps the counts.

    Raises:
        UnusableFileError: a file is missing, damaged, or no label map.
    """
    paths = [path for folder in folders for path in find_images(folder, Tally())]
    sources = sorted({*folders, *(path.parent for path in paths)})
    names = tuple(os.path.relpath(folder, root) for folder in folders)
    index = cached_index(
        root,
        ('map values', *names),
        sources,
        _COLUMNS,
        lambda: _entries(_scan(paths)),
        Tally(),
    )
    counts: Counts = defaultdict(dict)
    for entry in (index[number] for number in range(len(index))):
        (kind,), (files,), (pixels,) = entry.kinds, entry.files, entry.pixels
        counts[KINDS[kind]][entry.img_id] = Count(int(files), int(pixels), entry.file_name)
    return dict(counts)


def _entries(counts: Counts) -> Iterator[Entry]:
    for kind, values in counts.items():
        for value, count in sorted(values.items()):
            yield Entry(
                img_id=value,
                file_name=count.example,
                size=(0, 0),
                kinds=[KINDS.index(kind)],
                files=[count.files],
                pixels=[count.pixels],
            )


def _scan(paths: Sequence[Path]) -> Counts:
    counts: Counts = defaultdict(lambda: defaultdict(Count))
    for path, found in zip(paths, _count_all(paths)):
        for (kind, value), pixels in found.items():
            count = counts[kind][value]
            count.files += 1
            count.pixels += pixels
            count.example = count.example or str(path)
    return counts


def _count_all(paths: Sequence[Path]) -> Iterator[dict[tuple[str, int], int]]:
    """Count the values of each file, on all cores where there are many."""
    if not paths:
        return
    with open(paths[0], 'rb') as file:
        header = read_header(file)
    height, width = header.size if header else (0, 0)
    cost, done = max(1, height * width // 10**6), 0
    if len(paths) * cost < FEW:
        yield from map(count_file, paths)
        return
    try:
        for result in parallel(count_file, paths, 'label maps', cost):
            done += 1
            yield result
    except BrokenProcessPool:  # e.g. a script that starts a run without a check of __main__
        yield from map(count_file, paths[done:])


def count_file(path: Path) -> dict[tuple[str, int], int]:
    """Return the number of pixels of each value of a label map: (kind, value) -> number.

    Raises:
        UnusableFileError: the file is damaged, or no label map.
    """
    stored = read_map_values(path)
    flat = stored.values.reshape(-1)
    counts: dict[tuple[str, int], int] = defaultdict(int)
    if stored.missing is not None and stored.missing.any():
        flat = flat[~stored.missing.reshape(-1)]
        counts['missing', 0] = stored.missing.size - flat.size
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        starts = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))
        found, inverse = np.unique(block[starts], return_inverse=True)
        lengths = np.diff(starts, append=block.size)
        for value, pixels in zip(found.tolist(), np.bincount(inverse, lengths).tolist()):
            counts[stored.kind, value] += int(pixels)
        if len(counts) > MAX_VALUES:
            raise UnusableFileError(
                f'{path} holds more than {MAX_VALUES:,} values: it is an image, and no label map'
            )
    return dict(counts)


# ---- judging ----


def judge(
    counts: Counts,
    root: str,
    classes: Sequence[str],
    label_values: LabelValues | None,
    tally: Tally,
) -> MapRule:
    """Return the rule for values that occur so often; see :func:`read_rule`.

    Raises:
        UnusableFileError: the values have no one meaning.
        ValueError: ``label_values`` names no value or no class.
    """
    counts = dict(counts)
    missing = counts.pop('missing', {})
    if missing:
        tally.note(
            f'label maps of {root}: {missing[0].pixels:,} pixels in {missing[0].files:,} files '
            'have the nodata value of their GeoTIFF, or NaN, and are ignored'
        )
    if label_values is None:
        given, meanings = None, _self_evident(counts, classes)
    else:
        given = _parse(label_values, classes)
        meanings = {kind: _named(kind, values, given) for kind, values in counts.items()}
    unknown = {
        kind: {value: count for value, count in values.items() if value not in meanings[kind]}
        for kind, values in counts.items()
    }
    if any(unknown.values()):
        raise UnusableFileError(_refusal(root, counts, unknown, classes, given))
    _note(root, counts, meanings, classes, tally)
    return MapRule(
        {
            kind: (
                np.array(sorted(meaning), np.int64),
                np.array([meaning[value] for value in sorted(meaning)], np.uint8),
            )
            for kind, meaning in meanings.items()
        }
    )


def _self_evident(counts: Counts, classes: Sequence[str]) -> dict[str, dict[int, int]]:
    """Return the labels of values that speak for themselves: kind -> value -> label."""
    number, values = len(classes), {kind: set(counts[kind]) for kind in counts}
    meanings: dict[str, dict[int, int]] = dict.fromkeys(values, {})
    colours = values.pop('rgb', set())
    grey = colours <= {value * _GREY for value in range(256)}
    if grey and colours:  # judged together with the grey maps
        values['uint8'] = values.get('uint8', set()) | {colour & 255 for colour in colours}
    jpeg = values.pop('jpeg', {0})
    if number == 2 and (max(jpeg) >= CUT or max(jpeg) == 0):
        meanings['jpeg'] = {value: int(value >= CUT) for value in range(256)}
    for kind, there in values.items():
        top = MAP_KINDS[kind]
        if number == 2 and top in there and there <= {0, top}:
            meanings[kind] = {0: 0, top: 1}
        elif number == 2 and IGNORED in there and there <= {0, IGNORED}:
            meanings[kind] = {0: 0}  # no maximum of this type: ignored, or the second class?
        else:
            meanings[kind] = {**{value: value for value in range(number)}, IGNORED: IGNORED}
    if grey and colours:
        meanings['rgb'] = {value * _GREY: label for value, label in meanings['uint8'].items()}
    return {kind: meanings[kind] for kind in counts}


def _parse(label_values: LabelValues, classes: Sequence[str]) -> dict[tuple[bool, int], int]:
    """Return (is a colour, value) -> label.

    Raises:
        ValueError: a key is no value, or a value no class.
    """
    names, parsed = ClassNames(classes, Tally()), {}
    for key, name in label_values.items():
        text = str(key).strip()
        try:
            colour = text.startswith('#')
            if colour and len(text) != 7:
                raise ValueError
            value = int(text[1:], 16) if colour else int(text)
        except ValueError:
            raise ValueError(
                f"label_values: {key!r} is no value, such as 1, and no colour, such as '#ff0000'"
            ) from None
        parsed[colour, value] = (
            IGNORED if name is None else names.label(str(name), f'label_values[{key!r}]')
        )
    return parsed


def _named(
    kind: str, values: Iterable[int], given: Mapping[tuple[bool, int], int]
) -> dict[int, int]:
    """Return the labels of the values that ``label_values`` names."""
    if kind == 'jpeg':
        sides = [
            {label for (colour, value), label in given.items() if (value >= CUT) is high}
            for high in (False, True)
        ]
        if any(colour for colour, _ in given) or any(len(side) != 1 for side in sides):
            return {}
        (low,), (high,) = sides
        return {value: high if value >= CUT else low for value in range(256)}
    meaning = {}
    for value in values:
        keys = [(kind == 'rgb', value)]
        if kind == 'rgb' and value % _GREY == 0:
            keys.append((False, value & 255))
        if kind == 'bool':
            keys.append((False, value * 255))
        for key in keys:
            if key in given:
                meaning[value] = given[key]
                break
        else:
            if value == IGNORED and kind != 'rgb':
                meaning[value] = IGNORED
    return meaning


# ---- what is said ----


def list_values(counts: Counts, number: int = 12) -> str:
    """Return values with their counts, as one line.

    Args:
        counts: result of :func:`count_values`.
        number: largest number of values that are listed.
    """
    several = len(counts.keys() - {'missing'}) > 1
    shown = [
        'no data' + _said(kind, value, count).removeprefix('0')
        if kind == 'missing'
        else (f'{kind} ' if several else '') + _said(kind, value, count)
        for kind, values in counts.items()
        for value, count in sorted(values.items())
    ]
    return ', '.join(shown[:number]) + (', ...' if len(shown) > number else '')


def _note(
    root: str,
    counts: Counts,
    meanings: Mapping[str, Mapping[int, int]],
    classes: Sequence[str],
    tally: Tally,
) -> None:
    """Note what the values mean, and which classes have no pixel."""
    found = set()
    for kind, values in counts.items():
        labels = {value: meanings[kind][value] for value in values}
        found |= {*labels.values()} - {IGNORED}
        if kind == 'jpeg':
            tally.note(
                f'label maps of {root} that are JPEG are cut at {CUT}, as JPEG does not keep values'
            )
            continue
        named = {
            value: None if label == IGNORED else classes[label]
            for value, label in sorted(labels.items())
        }
        tally.note(f'label maps of {root} are read as {_line(kind, named)}')
    if len(found) == 1:
        tally.note(
            f'all label maps of {root} hold one class only, {classes[found.pop()]!r}: nothing can '
            'be learned from them'
        )
        return
    for label, name in enumerate(classes):
        if label not in found:
            tally.note(f'no label map of {root} holds the class {name!r}')


def _line(kind: str, named: Mapping[int, str | None]) -> str:
    """Return the line of a config that gives values these classes."""
    pairs = ', '.join(f'{_key(kind, value)}: {name!r}' for value, name in named.items())
    return f'label_values={{{pairs}}}'


def _refusal(
    root: str,
    counts: Counts,
    unknown: Counts,
    classes: Sequence[str],
    given: Mapping[tuple[bool, int], int] | None,
) -> str:
    """Return the message about values that have no one meaning."""
    if unknown.get('jpeg'):
        values = counts['jpeg']
        example = next(iter(values.values())).example
        if len(classes) == 2 and given is None:
            return (
                f'{example} and the other label maps of {root} that are JPEG hold no value from '
                f'{CUT} on, where they are cut into {classes[0]} and {classes[1]}; the greatest is '
                f'{max(values)}: save them as png'
            )
        return (
            f'{example} is a label map in JPEG, which does not keep the values of {len(classes)} '
            'classes: save the label maps as png'
        )
    kind, values = next((kind, values) for kind, values in unknown.items() if values)
    everything = counts[kind]
    shown = [_said(kind, value, count) for value, count in sorted(everything.items())]
    example = next(iter(values.values())).example
    fault = (
        f'have no one meaning for {len(classes)} classes ({", ".join(classes[:8])}'
        f'{", ..." if len(classes) > 8 else ""})'
        if given is None
        else 'label_values does not name'
    )
    return (
        f'{example} and other label maps of {root} hold values that {fault}: '
        f'{", ".join(shown[:12])}{", ..." if len(shown) > 12 else ""}. Give each value its class, '
        'or None to ignore its pixels, in the data sets of the config, such as: '
        f'{_proposal(kind, everything, classes)}'
    )


def _proposal(kind: str, values: Mapping[int, Count], classes: Sequence[str]) -> str:
    """Return a line for the config, with the classes in their order if the numbers agree."""
    there = sorted(values)
    if len(there) != len(classes) and there[-1] == IGNORED and kind != 'rgb':
        there.pop()
    names = classes if len(there) == len(classes) else ['...'] * len(there)
    return _line(kind, dict(list(zip(there, names))[:24]))


def _said(kind: str, value: int, count: Count) -> str:
    return f'{_shown(kind, value)} in {count.files:,} files ({count.pixels:,} pixels)'


def _key(kind: str, value: int) -> str:
    return f"'{_shown(kind, value)}'" if kind == 'rgb' else str(value)


def _shown(kind: str, value: int) -> str:
    return f'#{value:06x}' if kind == 'rgb' else str(value)
