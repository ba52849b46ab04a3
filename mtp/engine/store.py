"""The store of the processes of a run: they agree through it without waiting for a device."""

import json
import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from torch.distributed import HashStore, PrefixStore, Store, TCPStore
from torch.distributed.distributed_c10d import _get_default_store


def connect(prefix: str) -> Store:
    """Return a connection to the store of the process group; a store of its own without one.

    Args:
        prefix: prefix of all keys, used for one purpose.
    """
    if not dist.is_initialized():
        return HashStore()
    store = _get_default_store()
    if hasattr(store, 'clone'):  # torch 2.9: no thread waits for what another one waits for
        store = store.clone()
    return PrefixStore(f'mtp/{prefix}', store)


def launch_store(prefix: str) -> Store | None:
    """Return a connection to a store that all processes of a launch share from the start.

    Args:
        prefix: prefix of all keys, used for one purpose.

    Returns:
        Store | None: that of torchrun, or of the process group; None without either.
    """
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True':
        address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=10))
        return PrefixStore(f'mtp/{prefix}', store)
    return connect(prefix) if dist.is_initialized() else None


def gather(store: Store, key: str, value: Any, timeout: timedelta) -> list[Any]:
    """Return what all processes give for a key, which is used once; for the main process.

    Returns:
        list: what each rank gave; only the own value on the other processes, which do not wait.
    """
    store.set(f'{key}/{get_rank()}', json.dumps(value))
    if get_rank():
        return [value]
    keys = [f'{key}/{rank}' for rank in range(get_world_size())]
    store.wait(keys, timeout)
    return [json.loads(store.get(key)) for key in keys]


def tell(store: Store, key: str, value: Any, timeout: timedelta) -> Any:
    """Return what the main process gives for a key, which is used once."""
    if get_rank() == 0:
        store.set(key, json.dumps(value))
        return value
    store.wait([key], timeout)
    return json.loads(store.get(key))
