"""A checkpoint as ``model.safetensors`` with a model card beside it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

import mtp
from mtp.engine.self_description import KEY
from mtp.engine.shards import merge_shards
from mtp.export.model_card import model_card
from mtp.files import UnusableFileError, whole, write_text
from mtp.models.weights.loading import state_dict_of
from mtp.models.weights.safe_loading import load_safely
from mtp.models.weights.sources import PREFERRED, resolve


def export_safetensors(source: str | Path, target: Path) -> list[Path]:
    """Write the weights of a checkpoint for others, without optimizer and log.

    Args:
        source: checkpoint file or folder, or another source of
            :func:`mtp.models.weights.sources.resolve`.
        target: folder to write to; it must not hold the files yet.

    Returns:
        list: the files: ``model.safetensors`` and the model card, ``README.md``.

    Raises:
        MissingFileError: there is no such checkpoint.
        UnusableFileError: it cannot be read, or the files exist.
    """
    path = resolve(source)
    files = [target / PREFERRED, target / 'README.md']
    for file in files:
        if file.exists():
            raise UnusableFileError(f'{file} exists: remove it, or choose another folder by --out')
    state, meta = read_checkpoint(path)
    texts = {'format': 'pt', 'mtp_version': mtp.__version__}
    if isinstance(meta.get(KEY), str):
        texts[KEY] = meta[KEY]
    with whole(files[0]) as unfinished:
        # entries that share memory are refused, as are views
        tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
        safetensors.torch.save_file(tensors, unfinished, texts)
    write_text(files[1], model_card(path, state, meta))
    return files


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return the entries of a checkpoint file or folder, and its meta information.

    Args:
        path: file, or folder of a sharded checkpoint.
    """
    if not path.is_dir():
        content = load_safely(path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            merge_shards(path, Path(folder) / 'merged.pth')
            content = load_safely(Path(folder) / 'merged.pth')
    meta = content.get('meta') if isinstance(content, dict) else None
    return state_dict_of(content, path), meta if isinstance(meta, dict) else {}
