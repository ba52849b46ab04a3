"""From a checkpoint to a model that predicts: ``mtp.load``."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from safetensors import safe_open
from torch import nn

from mtp.engine import self_description
from mtp.engine.shards import REST, load_shards
from mtp.files import UnusableFileError
from mtp.models import portable
from mtp.models.weights.finetuned import convert
from mtp.models.weights.loading import check_state, state_dict_of
from mtp.models.weights.safe_loading import load_safely
from mtp.models.weights.sources import resolve
from mtp.prediction.inputs import Loader
from mtp.prediction.scene_files import Model

_KEYS = dict(task=str, scope=str, model=dict, pipeline=list, datasets=dict)


def load(
    source: str | Path,
    *,
    config: str | Path | None = None,
    device: str = 'auto',
    allow: Collection[str] = (),
) -> Model:
    """Load a trained model.

    Nothing in a checkpoint is executed: its config is plain data, and names only registered
    classes.

    Args:
        source: checkpoint of a training: a file, a folder, ``hf://owner/name`` or a name of the
            catalogue (:func:`mtp.models.weights.sources.resolve`).
        config: config file of the training, for checkpoints without a description; it is a program,
            and is executed.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:N'``, or ``'auto'`` for a GPU where there is one.
        allow: packages of one's own of which a checkpoint's config may use classes.

    Raises:
        FileNotFoundError: there is no such file.
        UnusableFileError: it is no checkpoint, tells nothing of its model, or its weights do not
            fit.
    """
    path = resolve(source)
    checkpoint = load_safely(path / REST if path.is_dir() else path)
    meta = _meta(checkpoint, path)
    text = meta.get(self_description.KEY)
    try:
        if config is not None:
            description = self_description.of_config(Config.fromfile(config), meta)
        elif isinstance(text, str):
            description = _parse(text, allow)
        else:
            raise UnusableFileError(
                'it does not tell what model it is of, as checkpoints of mtp do today: give '
                'config=, the config file of its training (mtp predict --config FILE)'
            )
        with DefaultScope.overwrite_default_scope(description['scope']):
            module = _build(description['model'])
            loader = Loader(description['pipeline'])
    except (UnusableFileError, FileNotFoundError) as error:
        raise type(error)(f'{path}: {error}') from error
    if path.is_dir():
        state = load_shards(path, module, None)['state_dict']
    else:
        state = state_dict_of(checkpoint, path)
    if config is not None:
        state, _ = convert(state, module, path)  # of the officially released models
    check_state(module, state, path)
    module.load_state_dict(state)
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return Model(module.to(device), description, loader, str(path))


def _meta(checkpoint: Any, path: Path) -> Mapping[str, Any]:
    """Return what a checkpoint tells of itself; of a safetensors file, its texts."""
    if path.suffix == '.safetensors':
        with safe_open(path, 'pt') as file:
            return file.metadata() or {}
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _parse(text: str, allow: Collection[str]) -> dict[str, Any]:
    """Return a checkpoint's description with classes as types."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableFileError(f'its description is no json ({error})') from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), kind) for key, kind in _KEYS.items()
    ):
        raise UnusableFileError(f'its description lacks one of {", ".join(_KEYS)}')
    if content.get('format') != self_description.FORMAT:
        raise UnusableFileError(
            f'its description has the format {content.get("format")!r}, and this version of mtp '
            f'reads {self_description.FORMAT}: use the version that wrote it, '
            f'{content.get("mtp", "unknown")!s:.20}'
        )
    return content | {
        key: portable.from_plain(content[key], allow) for key in ('model', 'pipeline')
    }


def _build(cfg: dict) -> nn.Module:
    """Build a network from a config that is not trusted."""
    try:
        return MODELS.build(ConfigDict(cfg))
    except UnusableFileError:
        raise
    except Exception as error:  # classes raise anything for wrong arguments
        reason = ' '.join(str(error).split())
        raise UnusableFileError(f'its model cannot be built: {reason:.300}') from error
