"""Checkpoint files -> state dicts -> backbones: official MTP, MAE, ImageNet and our own files."""

import argparse
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer, print_log
from safetensors import SafetensorError
from torch import Tensor, nn

# Possible prefixes of a backbone's entries: of a backbone alone, of a finetuned model or one of
# ours, of an official multi-task model.
_PREFIXES = ('', 'backbone.', 'encoder.')


@dataclass(frozen=True)
class LoadReport:
    """Result of loading a checkpoint into a backbone; ``str()`` gives it as a table.

    Attributes:
        path: path of the checkpoint file.
        prefix: prefix of the entries taken, ``''`` for all.
        loaded: the model's keys that got values, resized ones included.
        resized: loaded keys that were resized -> (shape in the file, shape in the model).
        missing: the model's keys that are not in the file; they keep their initial values.
        unexpected: the file's keys, without prefix, that are not in the model.
        num_ignored: number of entries outside the prefix.
    """

    path: Path
    prefix: str
    loaded: list[str]
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: list[str]
    unexpected: list[str]
    num_ignored: int

    def __str__(self) -> str:
        resized = [f'{key} {old} -> {new}' for key, (old, new) in self.resized.items()]
        rows = [
            ('loaded', len(self.loaded), []),
            ('resized', len(resized), resized),
            ('missing', len(self.missing), self.missing),
            ('unexpected', len(self.unexpected), self.unexpected),
        ]
        lines = [
            f"Checkpoint {self.path}, entries '{self.prefix}*'"
            + (f' ({self.num_ignored} others left out)' if self.num_ignored else '')
        ]
        for title, count, entries in rows:
            lines += [
                f'  {title if i == 0 else "":<11}{count if i == 0 else "":>5}  {text}'
                for i, text in enumerate(_merge_layers(entries) or [''])
            ]
        return '\n'.join(line.rstrip() for line in lines)


def _merge_layers(entries: list[str]) -> list[str]:
    """Merge entries that differ only in numbers, such as those of blocks, into one line each."""
    groups: dict[str, list[str]] = {}
    for entry in entries:
        groups.setdefault(re.sub(r'\.\d+(?=\.)', '.*', entry), []).append(entry)
    return [
        members[0] if len(members) == 1 else f'{pattern}  (x {len(members)})'
        for pattern, members in groups.items()
    ]


def load_backbone_checkpoint(backbone: nn.Module, path: str | Path) -> LoadReport:
    """Load a checkpoint into a backbone and log what became of each key.

    The file may hold an official MTP encoder or whole model, an MAE or ImageNet checkpoint, a
    finetuned model, a checkpoint of ours or a plain state dict. The prefix (none, ``backbone.`` or
    ``encoder.``) is the one that matches most keys. Keys may be missing or unexpected. Shapes must
    agree, except those that the backbone itself resizes on loading (a ViT's positions).

    Args:
        backbone: model to load into, in place.
        path: checkpoint file: ``.pth`` (or any other file of ``torch.save``) or ``.safetensors``.

    Returns:
        LoadReport: keys that were loaded, resized, missing and unexpected.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be read (see :func:`read_state_dict`), matches no key of the
            backbone, or has entries of another shape (then the backbone may be partly
            overwritten).
    """
    path = Path(path)
    source = read_state_dict(path)
    model = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    matches = {
        prefix: sum(key.startswith(prefix) and key[len(prefix) :] in model for key in source)
        for prefix in _PREFIXES
    }
    prefix = max(matches, key=matches.__getitem__)
    if not matches[prefix]:
        raise ValueError(
            f'{path} matches nothing in {type(backbone).__name__}: it has entries such as '
            f'{_examples(source)}, the model {_examples(model)}. Is it a checkpoint of this '
            'kind of backbone?'
        )

    state = {key[len(prefix) :]: value for key, value in source.items() if key.startswith(prefix)}
    try:
        missing, unexpected = backbone.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f'{path} does not fit this {type(backbone).__name__}. Build it with the sizes of the '
            'checkpoint (channels, heads or groups, MLP ratio, window size); only positions are '
            'resized.\n' + _head(str(error).splitlines())
        ) from error

    loaded = [key for key in state if key in model]
    shapes = {key: (tuple(state[key].shape), model[key]) for key in loaded}
    report = LoadReport(
        path=path,
        prefix=prefix,
        loaded=loaded,
        resized={key: pair for key, pair in shapes.items() if pair[0] != pair[1]},
        missing=missing,
        unexpected=unexpected,
        num_ignored=len(source) - len(state),
    )
    level = logging.INFO if len(loaded) > len(missing) else logging.WARNING
    print_log(str(report), logger='current', level=level)
    return report


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file, on the CPU.

    Unwraps ``state_dict`` or ``model`` and drops a ``module.`` prefix that all keys share.
    Pickled files are read with ``weights_only=True``.

    Args:
        path: checkpoint file: ``.safetensors``, or any file of ``torch.save``.

    Returns:
        dict[str, Tensor]: name -> tensor, in the file's order.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, holds objects that cannot be read safely, or holds no
            state dict.
    """
    path = _existing(path)
    content: object
    if path.suffix == '.safetensors':
        try:
            content = safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise ValueError(_damaged(path, error)) from error
    else:
        content = load_safely(path)

    for wrapper in ('state_dict', 'model'):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    state = (
        {key: value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not state:
        raise ValueError(
            f"{path} holds no state dict: expected a dict of tensors, or one under 'state_dict' "
            "or 'model'"
        )
    if all(key.startswith('module.') for key in state):
        state = {key.removeprefix('module.'): value for key, value in state.items()}
    return state


def check_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that the entries of a checkpoint are exactly those of a model, in name and shape.

    Args:
        model: model of a config.
        state: entries of the checkpoint.
        path: path of the checkpoint file, for the message.

    Raises:
        ValueError: keys or shapes are not those of the model; the message names ``path``.
    """
    source = {name: tuple(value.shape) for name, value in state.items()}
    target = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    problems = {
        'missing from the file': [name for name in target if name not in source],
        'unknown to the model': [name for name in source if name not in target],
        'of another shape': [
            f'{name} {source[name]} instead of {target[name]}'
            for name in target
            if source.get(name, target[name]) != target[name]
        ],
    }
    lines = [
        f'  {len(names)} {title}: {", ".join(names[:3])}{", ..." if len(names) > 3 else ""}'
        for title, names in problems.items()
        if names
    ]
    if lines:
        raise ValueError(
            f'{path} does not fit the model of the config ({len(target)} entries):\n'
            + '\n'.join(lines)
            + '\nUse the config that it was trained with'
        )


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}: check the path, or download the file')
    return path


def load_safely(path: str | Path, map_location: str | torch.device | None = 'cpu') -> object:
    """Load the whole content of a pickled checkpoint, with ``weights_only=True``.

    Args:
        path: checkpoint file of ``torch.save``.
        map_location: device of the tensors, as in ``torch.load``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or holds objects that cannot be read safely.
    """
    path = _existing(path)
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        found = re.search(r'GLOBAL (\S+)|Unsupported class (\S+)', str(error))
        if found is None:
            raise ValueError(_damaged(path, error)) from error
        raise ValueError(
            f'{path} holds a {found[1] or found[2]}, which cannot be read safely. If you trust '
            "the file, save only its tensors: torch.save({'state_dict': ...}, path)"
        ) from error


def _damaged(path: Path, error: Exception) -> str:
    return (
        f'{path} cannot be read: it is truncated, damaged or no checkpoint '
        f'({str(error).splitlines()[0] if str(error) else type(error).__name__}). '
        'Download or copy it again'
    )


def _safe_globals() -> list:
    """Return harmless types that training scripts save beside the weights.

    They are numbers and arrays of numpy (loss lists; under the names of both numpy 1 and 2),
    ``argparse.Namespace`` (MAE) and mmengine's log history (a training checkpoint of ours).
    """
    functions: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]
    dtypes = {type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'bool')}
    return [
        np.ndarray,
        np.dtype,
        *dtypes,
        argparse.Namespace,
        HistoryBuffer,
        (_history_buffer_method, 'builtins.getattr'),
        *(
            (function, f'numpy.{core}.multiarray.{function.__name__}')
            for function in functions
            for core in ('core', '_core')
        ),
    ]


def _history_buffer_method(owner: type, name: str) -> object:
    """Stand in for ``getattr`` in the one use that a pickled log history makes of it."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'GLOBAL getattr of {owner}')
    return getattr(owner, name)


def _head(lines: list[str], count: int = 8) -> str:
    left = len(lines) - count
    return '\n'.join(lines[:count] + ([f'... and {left} more'] if left > 0 else []))


def _examples(keys: dict) -> str:
    return ', '.join(list(keys)[:3])
