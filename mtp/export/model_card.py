"""Model card of exported weights, as the Hugging Face hub reads it; the unknown stays out."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import mtp
from mtp.files import read_figures

# What a model is -> (its entries begin with, pipeline of the hub); the first that fits.
_KINDS: dict[str, tuple[str | tuple[str, ...], str | None]] = {
    'multi-task model': ('tasks.', None),
    'rotated object detector': ('rpn_head.', 'object-detection'),
    'object detector': (('rpn_head.', 'bbox_head.retina'), 'object-detection'),
    'change detector': ('decode_head.blocks.', 'image-segmentation'),
    'segmentation model': ('decode_head.', 'image-segmentation'),
    'scene classifier': ('head.fc.', 'image-classification'),
    'encoder': ('', 'image-feature-extraction'),
}
_PATCH = 16  # side of a ViT's patch, pixels
_MIDPOINT_DELTAS = 6  # of an oriented RPN; that of horizontal boxes has four


def kind_of(state: Mapping[str, Tensor]) -> str:
    """Return what a model is, by the names of its entries."""
    for kind, (start, _) in _KINDS.items():
        if any(key.startswith(start) for key in state):
            if kind == 'rotated object detector':
                deltas = state['rpn_head.rpn_reg.bias'].numel()
                if deltas != _MIDPOINT_DELTAS * state['rpn_head.rpn_cls.bias'].numel():
                    continue
            return kind
    raise AssertionError('all entries begin with nothing')


def model_card(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        path: checkpoint; figures are those of a ``metrics.json`` beside it or in ``test/``.
        state: its entries.
        meta: its meta information.
    """
    kind = kind_of(state)
    _, pipeline = _KINDS[kind]
    values = sum(value.numel() for value in state.values() if value.is_floating_point())
    lines = [
        '---',
        'library_name: mtp',
        *([f'pipeline_tag: {pipeline}'] if pipeline else []),
        'tags:',
        '- remote-sensing',
        f'- {kind.replace(" ", "-")}',
        '---',
        '',
        f'# {path.stem}',
        '',
        f'Weights of a remote-sensing {kind}, written by `mtp export` {mtp.__version__}.',
        '',
        *(f'- {title}: {text}' for title, text in _facts(state, meta)),
        f'- values: {values:,}',
        *_classes(meta),
        *_figures(path),
    ]
    return '\n'.join([*lines, ''])


def _facts(state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is known of the training, and its title."""
    config = json.loads(meta.get('mtp_model') or '{}')
    backbone = _find(config, 'backbone') or {}
    if 'name' in backbone:
        yield 'encoder', f'`{backbone["name"]}`'
    positions = next((v for k, v in state.items() if k.endswith('pos_embed')), None)
    if 'img_size' in backbone:
        yield 'input size', f'{backbone["img_size"]} pixels; others work too'
    elif positions is not None:
        side = math.isqrt(positions.shape[1])
        if side**2 == positions.shape[1]:
            yield 'input size', f'{side * _PATCH} pixels; others work too'
    preprocessor = _find(config, 'data_preprocessor') or {}
    for key, title in (('mean', 'mean of each band'), ('std', 'standard deviation')):
        if preprocessor.get(key):
            yield title, ', '.join(map(str, preprocessor[key]))
    for key, title in (('experiment_name', 'run'), ('epoch', 'epochs'), ('iter', 'iterations')):
        if meta.get(key) is not None:
            yield title, str(meta[key])


def _find(tree: Any, key: str) -> dict[str, Any] | None:
    """Return the first dict under a key at any depth of JSON content."""
    todo = [tree]
    while todo:
        node = todo.pop(0)
        if isinstance(node, dict):
            if isinstance(node.get(key), dict):
                return node[key]
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return None


def _classes(meta: Mapping[str, Any]) -> Iterator[str]:
    trained_on = meta.get('dataset_meta') or {}
    datasets = trained_on.get('datasets') or {'': trained_on}
    for name, of_dataset in datasets.items():
        classes = of_dataset.get('classes')
        if classes:
            yield from ('', f'## Classes{f" of {name}" if name else ""}', '')
            yield ', '.join(map(str, classes))


def _figures(path: Path) -> Iterator[str]:
    for file in (path.parent / 'metrics.json', path.parent / 'test' / 'metrics.json'):
        if file.is_file():
            yield from ('', '## Figures', '', '| metric | value |', '| --- | ---: |')
            yield from (f'| {name} | {value:.4g} |' for name, value in read_figures(file).items())
            return
