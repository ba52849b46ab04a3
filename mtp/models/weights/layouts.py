"""Recorded keys and shapes of released weights, and what a file has of them.

``layouts.json`` is written by ``tools/checkpoints/record_layouts.py``. An entry
``blocks.{0-2,4}.norm1.weight 768`` stands for four tensors.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mtp.models.weights.catalogue import CATALOGUE, Weights

Shapes = dict[str, tuple[int, ...]]
# Possible prefixes of an encoder's entries, as in loading.py.
_PREFIXES = ('', 'backbone.', 'encoder.')
_BLOCK = re.compile(r'(?<=blocks\.)\d+')
_BLOCKS = re.compile(r'\{([\d,-]+)\}')


@dataclass(frozen=True)
class Comparison:
    """Entries of a file beside those that are recorded.

    Attributes:
        layout: name of the recorded layout.
        prefix: prefix of the file's entries that were compared.
        equal: number of entries of the same name and shape.
        missing: recorded names that the file has not.
        unexpected: names of the file that are not recorded.
        reshaped: name -> shapes in the file and in the record.
    """

    layout: str
    prefix: str
    equal: int
    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def fits(self, weights: Weights) -> bool:
        """Return whether the file may be the one of an entry of the catalogue."""
        extra = self.unexpected and not weights.partial
        return not (self.missing or self.reshaped or extra)


@cache
def _recorded() -> dict[str, dict]:
    return json.loads(files(__package__).joinpath('layouts.json').read_text())


def layout(name: str) -> Shapes:
    """Return the recorded keys of a layout, with their shapes."""
    recorded = _recorded()
    return {
        prefix + key: shape
        for prefix, part in recorded['layouts'][name].items()
        for line in lines_of(part, recorded['parts'])
        for key, shape in _expand(line).items()
    }


def lines_of(part: str, parts: Mapping[str, dict]) -> list[str]:
    """Return the entries of a part of a model, which may be recorded as a difference.

    Args:
        part: name of the part.
        parts: name -> part, as in the file.
    """
    recorded = parts[part]
    known = lines_of(recorded['like'], parts) if 'like' in recorded else []
    return [line for line in known if line not in recorded.get('without', ())] + recorded['lines']


def compress(shapes: Mapping[str, Iterable[int]]) -> list[str]:
    """Return entries as lines, those of equal blocks in one."""
    groups: dict[tuple[str, str], list[int]] = {}
    for key, shape in shapes.items():
        number = _BLOCK.search(key)
        kind = _BLOCK.sub('{}', key, count=1), 'x'.join(map(str, shape))
        groups.setdefault(kind, []).extend([int(number[0])] if number else [])
    return [
        f'{key.replace("{}", _ranges(blocks))} {shape}' for (key, shape), blocks in groups.items()
    ]


def _ranges(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return '{' + ','.join(str(a) if a == b else f'{a}-{b}' for a, b in runs) + '}'


def _expand(line: str) -> Shapes:
    key, _, shape = line.partition(' ')
    sides = tuple(map(int, shape.split('x'))) if shape else ()
    found = _BLOCKS.search(key)
    if found is None:
        return {key: sides}
    numbers: list[int] = []
    for run in found[1].split(','):
        first, _, last = run.partition('-')
        numbers += range(int(first), int(last or first) + 1)
    return {f'{key[: found.start()]}{number}{key[found.end() :]}': sides for number in numbers}


def compare(shapes: Mapping[str, tuple[int, ...]]) -> Comparison:
    """Compare the entries of a file with the recorded layout that they fit best.

    Args:
        shapes: name -> shape of the file's entries.
    """
    names = dict.fromkeys(each.layout for each in CATALOGUE.values() if each.layout)
    found = [_compare(shapes, name, prefix) for name in names for prefix in _PREFIXES]
    return max(
        found,
        key=lambda each: (
            each.equal
            - len(each.missing)
            - len(each.reshaped)
            - len(each.unexpected) / (1 + len(shapes))
        ),
    )


def _compare(shapes: Mapping[str, tuple[int, ...]], name: str, prefix: str) -> Comparison:
    expected = {prefix + key: shape for key, shape in layout(name).items()}
    return Comparison(
        layout=name,
        prefix=prefix,
        equal=sum(shapes.get(key) == shape for key, shape in expected.items()),
        missing=[key for key in expected if key not in shapes],
        unexpected=[key for key in shapes if key not in expected],
        reshaped={
            key: (shapes[key], shape)
            for key, shape in expected.items()
            if key in shapes and shapes[key] != shape
        },
    )


def matching(found: Comparison) -> list[Weights]:
    """Return the entries of the catalogue whose keys and shapes a file has.

    Data sets with equally many classes have the same; so have an encoder and the models that
    it is part of.

    Args:
        found: result of :func:`compare`.
    """
    keys = layout(found.layout)
    return [
        each
        for each in CATALOGUE.values()
        if each.layout
        and found.fits(each)
        and (each.layout == found.layout or layout(each.layout) == keys)
        and (each.kind == 'multitask') == (found.prefix == 'encoder.')
    ]
