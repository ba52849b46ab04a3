"""Sharded checkpoints: mmengine's checkpoint as a folder that any number of processes can read.

The folder has the content of mmengine's checkpoint file. The tensors of ``state_dict`` and
``optimizer`` are stored by ``torch.distributed.checkpoint``, each process writing its own. The rest
(schedules, log, meta information) is in ``rest.pth``.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from mmengine.dist import barrier, get_rank, is_main_process
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mtp.engine.checkpoint_writer import bad_values, refuse_not_finite, to_host, writing
from mtp.engine.checkpoints import REST, checksum_file, digest, write_checksums
from mtp.engine.shard_metadata import INDEX, SafeReader, read_index
from mtp.files import MissingFileError, UnusableFileError, put_in_place, whole
from mtp.models.weights.loading import check_state, read_state_dict
from mtp.models.weights.safe_loading import load_safely


def whole_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the unsharded state dict of a module on the CPU; all processes must call it."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in module.state_dict().items()
    }


def start_shards(
    checkpoint: dict[str, Any],
    folder: str | Path,
    group: ProcessGroup | None = None,
    began: Mapping[str, bool] | None = None,
) -> Callable[[], None]:
    """Copy a sharded checkpoint to host memory and begin to write it; all processes must call it.

    The folder has a temporary name until all processes have written.

    Args:
        checkpoint: checkpoint in mmengine's layout; tensors of a sharded model are ``DTensor``s.
        folder: folder to write, which may replace an older one.
        group: process group of CPUs that nothing else uses meanwhile; None where there is no other
            process.
        began: as for :func:`mtp.engine.checkpoint_writer.bad_values`.

    Returns:
        callable: the job that ends the writing, for a thread; all processes must call it.

    Raises:
        CheckpointError: a value is not finite, on any process.
    """
    folder = Path(folder)
    names = set(chain.from_iterable(_gather(bad_values(checkpoint, began), group)))
    refuse_not_finite(sorted(names), folder)
    tensors, rest = _split(checkpoint)
    rest = to_host(rest)
    unfinished = _begin(folder, group)
    written = dcp.async_save(tensors, checkpoint_id=unfinished, process_group=group)

    def finish() -> None:
        with writing(folder):
            written.result()  # type: ignore[union-attr]  # what the default stager returns
            _finish(unfinished, folder, rest, group)

    return finish


def _split(checkpoint: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint by key, and all else."""
    rest = dict(checkpoint)
    tensors = _flat(rest.pop('state_dict'), rest.get('optimizer', {}).get('state', {}))
    if 'optimizer' in rest:
        rest['optimizer'] = {
            key: value for key, value in rest['optimizer'].items() if key != 'state'
        }
    return tensors, rest


def _begin(folder: Path, group: ProcessGroup | None) -> Path:
    """Return an empty folder, to be filled by all processes."""
    unfinished = folder.with_name(f'{folder.name}.unfinished')
    if is_main_process():
        with writing(folder):
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            unfinished.mkdir(parents=True)
    barrier(group)
    return unfinished


def _finish(
    unfinished: Path, folder: Path, rest: dict[str, Any], group: ProcessGroup | None
) -> None:
    """Give a folder its name and its checksums once all processes have written."""
    digests = {
        path.name: digest(path, written=True)
        for path in unfinished.glob(f'__{get_rank()}_*.distcp')
    }
    for theirs in _gather(digests, group):
        digests |= theirs
    if is_main_process():
        with whole(unfinished / REST) as path, open(path, 'wb') as file:
            torch.save(rest, file)
        digests |= {name: digest(unfinished / name, written=True) for name in (REST, '.metadata')}
        # A checksum of an older folder of this name would refuse the new one.
        checksum_file(folder).unlink(missing_ok=True)
        replaced = folder.with_name(f'{folder.name}.replaced')
        if folder.exists():
            os.replace(folder, replaced)
        put_in_place(unfinished, folder)
        shutil.rmtree(replaced, ignore_errors=True)
        names = sorted(digests)
        write_checksums(
            folder, rest['meta'], {f'{folder.name}/{name}': digests[name] for name in names}
        )
    barrier(group)


def _gather(value: Any, group: ProcessGroup | None) -> list[Any]:
    """Return what all processes give."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def load_shards(
    folder: str | Path, model: nn.Module, optimizer: Optimizer | None = None
) -> dict[str, Any]:
    """Load the weights of a sharded checkpoint into a model; all processes must call it.

    Args:
        folder: checkpoint written by :func:`start_shards` on any number of processes.
        model: model to load into, sharded or not.
        optimizer: optimiser of the model; None to skip its states.

    Returns:
        dict: the checkpoint in mmengine's layout; ``optimizer`` is sharded if the model is.
    """
    folder = Path(folder)
    entries, checkpoint = _entries(folder), load_safely(folder / REST)
    state_dict = model.state_dict()
    states: dict[int, dict[str, Tensor]] = {}
    if optimizer is not None:
        for key, (size, dtype) in entries.items():
            kind, index, *name = key.split('.', 2)
            if kind == 'optimizer':
                like = _parameters(optimizer)[int(index)]
                states.setdefault(int(index), {})[name[0]] = (
                    torch.zeros_like(like, dtype=dtype)
                    if size == like.shape
                    else torch.zeros(size, dtype=dtype)
                )
    _read_tensors(_flat(state_dict, states), folder, dist.is_initialized())
    checkpoint['state_dict'] = state_dict
    if optimizer is None:
        checkpoint.pop('optimizer', None)
    else:
        checkpoint['optimizer']['state'] = states
    return checkpoint


def distribute(checkpoint: dict[str, Any], model: nn.Module, optimizer: Optimizer | None) -> None:
    """Shard the tensors of a checkpoint in place, as those of a sharded model are.

    Entries that the model does not have stay unchanged.

    Args:
        checkpoint: checkpoint of a file.
        model: sharded model.
        optimizer: optimiser of the model; None to leave its states unsharded.
    """
    likes = model.state_dict()
    checkpoint['state_dict'] = {
        name: _split_like(value, likes[name]) if name in likes else value
        for name, value in checkpoint['state_dict'].items()
    }
    if optimizer is not None and 'optimizer' in checkpoint:
        for index, state in checkpoint['optimizer']['state'].items():
            like = _parameters(optimizer)[index]
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == like.shape:
                    state[name] = _split_like(value, like)


def read_entries(path: str | Path) -> dict[str, Tensor]:
    """Return the model's entries in a checkpoint file or folder.

    Those of a folder are meta tensors: they have a shape and dtype, but no values.

    Raises:
        FileNotFoundError: no such file, or a folder that is no checkpoint.
        ValueError: the file cannot be read, or has no state dict.
    """
    path = Path(path)
    if not path.is_dir():
        return read_state_dict(path)
    return {
        key.removeprefix('state_dict.'): torch.empty(size, dtype=dtype, device='meta')
        for key, (size, dtype) in _entries(path).items()
        if key.startswith('state_dict.')
    }


def merge_shards(folder: str | Path, path: str | Path) -> None:
    """Write a checkpoint folder as the single file that mmengine would have written.

    Raises:
        FileNotFoundError, ValueError: as in :func:`read_entries`.
    """
    folder, path = Path(folder), Path(path)
    tensors = {
        key: torch.empty(size, dtype=dtype) for key, (size, dtype) in _entries(folder).items()
    }
    checkpoint: dict[str, Any] = {**load_safely(folder / REST), 'state_dict': {}}
    _read_tensors(tensors, folder, together=False)
    for key, value in tensors.items():
        kind, name = key.split('.', 1)
        if kind == 'state_dict':
            checkpoint['state_dict'][name] = value
        else:
            index, name = name.split('.', 1)
            states = checkpoint['optimizer'].setdefault('state', {})
            states.setdefault(int(index), {})[name] = value
    with whole(path) as unfinished, open(unfinished, 'wb') as file:
        torch.save(checkpoint, file)


def _read_tensors(tensors: dict[str, Tensor], folder: Path, together: bool) -> None:
    """Fill tensors from a folder.

    Args:
        tensors: tensors by their keys in the folder, changed in place.
        folder: folder of shards.
        together: whether all processes call, and each reads its own part.

    Raises:
        UnusableFileError: an entry is missing, of another shape or damaged.
    """
    try:
        dcp.load(tensors, storage_reader=SafeReader(folder), no_dist=not together)
    except CheckpointException as error:  # which is no Exception
        causes = [str(cause) or type(cause).__name__ for cause, _ in error.failures.values()]
        raise UnusableFileError(
            f'{folder} cannot be read into this model: {causes[0].splitlines()[0][:200]}. Use the '
            'config that it was trained with, or copy the folder again'
        ) from error


def _flat(
    state_dict: Mapping[str, Tensor], states: Mapping[int, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    return {
        **{f'state_dict.{name}': value for name, value in state_dict.items()},
        **{
            f'optimizer.{index}.{name}': value
            for index, state in states.items()
            for name, value in state.items()
        },
    }


def _entries(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return key -> (size, dtype) of every tensor in a folder."""
    if not (folder / INDEX).is_file() or not (folder / REST).is_file():
        raise MissingFileError(
            f'no checkpoint in the folder {folder}: it lacks {INDEX} or '
            f'{REST}; give a folder that training wrote'
        )
    entries = read_index(folder).state_dict_metadata
    return {
        key: (entry.size, entry.properties.dtype)  # type: ignore[union-attr]  # all are tensors
        for key, entry in entries.items()
    }


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters in the order of their indices in the optimiser's state dict."""
    return [param for group in optimizer.param_groups for param in group['params']]


def _split_like(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def check_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Refuse a checkpoint that does not fit a model exactly; mmengine would load what fits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or its keys or shapes differ from those of the model.
    """
    check_state(model, read_entries(path), path)


def check_progress(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a checkpoint that does not record how far training had come.

    Raises:
        UnusableFileError: the iteration or epoch is missing or negative, or the log is missing.
    """
    meta, hub = checkpoint.get('meta'), checkpoint.get('message_hub')
    meta = meta if isinstance(meta, dict) else {}
    for key in ('iter', 'epoch'):
        value = meta.get(key)
        if type(value) is not int or value < 0:
            raise UnusableFileError(
                f'{path} is no checkpoint to resume from: its meta information '
                + (f'has {value!r:.40} as {key}' if key in meta else f'names no {key}')
                + '. Give a checkpoint of training, or start from its weights with load_from'
            )
    if not isinstance(hub, dict):
        raise UnusableFileError(
            f'{path} is no checkpoint to resume from: it has no message_hub, the log of training. '
            'Start from its weights with load_from'
        )
