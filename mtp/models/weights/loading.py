"""Checkpoint files -> state dicts -> backbones: official MTP, MAE, ImageNet and our own files."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log
from timm.models import adapt_input_conv
from torch import Tensor, nn

from mtp.files import UnusableFileError
from mtp.models.weights.safe_loading import load_safely, weights_file

# Possible prefixes of a backbone's entries: of a backbone alone, of a finetuned model or one of
# ours, of an official multi-task model.
_PREFIXES = ('', 'backbone.', 'encoder.')
# Number of bands of the weights that are adapted to other bands: those of red, green and blue.
BANDS = 3

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class LoadReport:
    """Result of loading a checkpoint into a backbone; ``str()`` gives it as a table.

    Attributes:
        path: path of the checkpoint file.
        prefix: prefix of the entries taken, ``''`` for all.
        loaded: the model's keys that got values, resized ones included.
        resized: loaded keys that were resized -> (shape in the file, shape in the model).
        adapted: loaded keys whose three bands became the model's -> the same two shapes.
        missing: the model's keys that are not in the file; they keep their initial values.
        unexpected: the file's keys, without prefix, that are not in the model.
        num_ignored: number of entries outside the prefix.
    """

    path: Path
    prefix: str
    loaded: list[str]
    resized: dict[str, Shapes]
    adapted: dict[str, Shapes]
    missing: list[str]
    unexpected: list[str]
    num_ignored: int

    def __str__(self) -> str:
        resized = [f'{key} {old} -> {new}' for key, (old, new) in self.resized.items()]
        adapted = [
            f'{key} {old} -> {new}, {_adaptation(new[1])}'
            for key, (old, new) in self.adapted.items()
        ]
        rows = [
            ('loaded', len(self.loaded), []),
            ('resized', len(resized), resized),
            *([('adapted', len(adapted), adapted)] if adapted else []),
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


def _adaptation(bands: int) -> str:
    """Return what :func:`timm.models.adapt_input_conv` does to weights of three bands, in words."""
    if bands == 1:
        return 'the weights of the three bands are summed'
    if bands < BANDS:
        return f'the weights of the first {bands} bands are kept, times {BANDS}/{bands}'
    return f'the weights of the three bands are repeated over {bands}, times {BANDS}/{bands}'


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
    agree, except those that the backbone itself resizes on loading (a ViT's positions), and the
    bands of its first convolution: weights of three bands are repeated over the model's and scaled
    by 3 / bands (for one band: summed), so that equal bands give the response of a grey image.

    Args:
        backbone: model to load into, in place.
        path: checkpoint file: ``.pth`` (or any other file of ``torch.save``) or ``.safetensors``.

    Returns:
        LoadReport: keys that were loaded, resized, adapted, missing and unexpected.

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
        raise UnusableFileError(
            f'{path} matches nothing in {type(backbone).__name__}: it has entries such as '
            f'{_examples(source)}, the model {_examples(model)}. Is it a checkpoint of this '
            'kind of backbone?'
        )

    state = {key[len(prefix) :]: value for key, value in source.items() if key.startswith(prefix)}
    adapted = _adapt_bands(state, backbone, path)
    try:
        missing, unexpected = backbone.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise UnusableFileError(
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
        adapted=adapted,
        missing=missing,
        unexpected=unexpected,
        num_ignored=len(source) - len(state),
    )
    level = logging.INFO if len(loaded) > len(missing) else logging.WARNING
    print_log(str(report), logger='current', level=level)
    return report


def _adapt_bands(state: dict[str, Tensor], backbone: nn.Module, path: Path) -> dict[str, Shapes]:
    """Adapt the weights of the first convolution, in ``state``, to the model's number of bands.

    Returns:
        dict: name -> shapes in the file and in the model; empty if nothing was adapted.

    Raises:
        UnusableFileError: the weights are of other bands than the model, and not of three.
    """
    key = f'{getattr(backbone, "first_conv", None)}.weight'
    if key not in state or state[key].dim() != 4:
        return {}
    bands, found = backbone.in_chans, state[key].shape[1]
    assert isinstance(bands, int)
    if found == bands:
        return {}
    if found != BANDS:
        raise UnusableFileError(
            f'{path} was trained on images of {found} bands ({key}), but the model has '
            f'in_chans={bands}: only weights of {BANDS} bands are adapted to others. Set in_chans='
            f'{found} and choose these bands, or give weights of {BANDS} or {bands} bands'
        )
    old = tuple(state[key].shape)
    state[key] = adapt_input_conv(bands, state[key])
    return {key: (old, tuple(state[key].shape))}


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
    path = weights_file(path)
    return state_dict_of(load_safely(path), path)


def state_dict_of(content: object, path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, freed of wrappers and of a prefix that all keys share.

    Args:
        content: what the file holds.
        path: path of the file, for the message.

    Raises:
        UnusableFileError: it holds no state dict.
    """
    for wrapper in ('state_dict', 'model'):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    state = (
        {key: value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not state or not all(isinstance(key, str) for key in state):
        raise UnusableFileError(
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
    if source and all(f'backbone.{name}' in target for name in source):
        raise UnusableFileError(
            f'{path} is an encoder alone: give a checkpoint of the whole model, such as '
            'iter_<N>.pth or epoch_<N>.pth. To train from this encoder: --cfg-options '
            f'model.backbone.init_cfg.checkpoint={path}'
        )
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
        raise UnusableFileError(
            f'{path} does not fit the model of the config ({len(target)} entries):\n'
            + '\n'.join(lines)
            + '\nUse the config that it was trained with'
        )


def _head(lines: list[str], count: int = 8) -> str:
    left = len(lines) - count
    return '\n'.join(lines[:count] + ([f'... and {left} more'] if left > 0 else []))


def _examples(keys: dict) -> str:
    return ', '.join(list(keys)[:3])
