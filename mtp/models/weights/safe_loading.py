"""Content of checkpoint files: the one place where they are read, none of it run as code."""

import argparse
import os
import pickle
import re
import shlex
import urllib.error
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer, print_log
from safetensors import SafetensorError

from mtp.files import MissingFileError, UnusableFileError

MapLocation = str | torch.device | Callable | None

# Weights hardly compress, and torch.save stores them as they are: what grows more is a bomb.
_MAX_EXPANSION = 16


def load_safely(path: str | Path, map_location: MapLocation = 'cpu') -> Any:
    """Load the whole content of a checkpoint file; nothing in it can run code.

    Pickled files are read with ``weights_only=True``. The text of a config that mmengine would
    execute on resuming, ``meta['config']``, is left out; nothing of mtp writes it.

    Args:
        path: checkpoint file of ``torch.save``, or ``.safetensors``.
        map_location: device of the tensors, as in ``torch.load``.

    Returns:
        object: content of the file, mostly a dict; of ``.safetensors`` the dict of its tensors.

    Raises:
        MissingFileError: the file does not exist.
        UnusableFileError: the file is damaged, or holds objects that cannot be read safely.
    """
    path = _existing(path)
    if path.suffix == '.safetensors':
        return _load_safetensors(path, map_location)
    try:
        _check_expansion(path)
        with torch.serialization.safe_globals(_safe_globals()), _statistics_unchanged():
            content = torch.load(path, map_location=map_location, weights_only=True)
    except UnusableFileError:
        raise
    except Exception as error:  # hostile files reach errors of any type in the unpickler
        found = re.search(r'GLOBAL (\S+)|Unsupported class (\S+)', str(error))
        if found is None:
            raise UnusableFileError(_damaged(path, error)) from error
        raise UnusableFileError(
            f'{path} holds a {found[1] or found[2]}, which cannot be read safely. If you trust '
            "the file, save only its tensors: torch.save({'state_dict': ...}, path)"
        ) from error
    _drop_code(content, path)
    return content


def weights_file(path: str | Path) -> Path:
    """Return the file to take weights from: of two of one name, the ``.safetensors``.

    Args:
        path: file of weights; not a checkpoint to resume from, which is taken as it is named.
    """
    path = Path(path)
    beside = path.with_suffix('.safetensors')
    if path.suffix in ('.pth', '.pt', '.bin', '.ckpt') and beside.is_file():
        print_log(f'{beside} is taken in place of {path.name} beside it', logger='current')
        return beside
    return path


def load_from_local(path: str, map_location: MapLocation = None) -> Any:
    """Load a file of weights for mmengine's loader; see :func:`load_safely`.

    Args:
        path: path of the file, in which ``~`` may stand for the user's folder.
        map_location: device of the tensors, as in ``torch.load``.
    """
    if re.match(r'[\w.+:-]+://', path):
        load_from_elsewhere(path)
    return load_safely(weights_file(os.path.expanduser(path)), map_location)


def load_from_web(url: str, map_location: MapLocation = None) -> Any:
    """Download a checkpoint into torch's folder of them, once, and load it safely.

    Args:
        url: address of the file, ``http`` or ``https``.
        map_location: device of the tensors, as in ``torch.load``.

    Raises:
        UnusableFileError: it cannot be downloaded or read.
    """
    name = Path(urllib.parse.unquote(urllib.parse.urlparse(url).path)).name
    path = Path(torch.hub.get_dir()) / 'checkpoints' / (name or 'checkpoint')
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise UnusableFileError(
                f'{url} cannot be downloaded ({_first_line(error)}): {_download_first(url)}'
            ) from error
    return load_safely(path, map_location)


def load_from_elsewhere(url: str, map_location: MapLocation = None) -> Any:
    """Refuse a checkpoint on a storage that is not read safely.

    Args:
        url: address with a scheme, such as ``s3://``.
        map_location: ignored; given by mmengine's loader.

    Raises:
        UnusableFileError: always; the message says how to get the file.
    """
    raise UnusableFileError(
        f'{url}: checkpoints are not read from {url.partition("://")[0]}://. {_download_first(url)}'
    )


def _download_first(url: str) -> str:
    name = Path(urllib.parse.urlparse(url).path).name or 'checkpoint.pth'
    if url.startswith(('http://', 'https://')):
        return f'download it first, "wget -O {name} {shlex.quote(url)}", and give the path {name}'
    return f'Download it first with the tool of that storage, and give its path, such as {name}'


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f'no checkpoint at {path}: check the path, or download the file')
    return path


def _load_safetensors(path: Path, map_location: MapLocation) -> dict[str, torch.Tensor]:
    try:
        content = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, MemoryError) as error:
        raise UnusableFileError(_damaged(path, error)) from error
    if map_location is None or callable(map_location):
        return content
    return {key: value.to(map_location) for key, value in content.items()}


def _check_expansion(path: Path) -> None:
    """Refuse an archive whose entries would take far more memory than the file takes on disk."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    if total > _MAX_EXPANSION * path.stat().st_size:
        raise UnusableFileError(
            f'{path} has {path.stat().st_size:,} bytes and would unpack to {total:,}, which no '
            'checkpoint of torch.save does. Download or copy it again'
        )


def _drop_code(content: object, path: Path) -> None:
    meta = content.get('meta') if isinstance(content, dict) else None
    if isinstance(meta, dict) and meta.pop('config', None) is not None:
        print_log(f"{path}: the text in meta['config'] is ignored", logger='current')


def _damaged(path: Path, error: Exception) -> str:
    return (
        f'{path} cannot be read: it is truncated, damaged or no checkpoint '
        f'({_first_line(error)}). Download or copy it again'
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].split('. ')[0][:200] if str(error) else type(error).__name__


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
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'GLOBAL getattr of {owner}')
    return getattr(owner, name)


@contextmanager
def _statistics_unchanged() -> Iterator[None]:
    """Keep a log history that is loaded from changing what all of the process compute with."""
    methods = HistoryBuffer._statistics_methods
    before = dict(methods)
    try:
        yield
    finally:
        methods.clear()
        methods.update(before)
