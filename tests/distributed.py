"""Run a function on several CPU processes that talk through gloo."""

import os
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import mtp  # noqa: F401  (a spawned process has no conftest)


def run_processes(function, world_size: int, *args, start: str = 'spawn') -> list:
    """Results by rank of ``function(rank, *args)``, called on ``world_size`` processes.

    ``start='fork'`` spares them the imports, where nothing has started a thread.
    """
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _worker,
            (function, world_size, port, folder, args),
            nprocs=world_size,
            start_method=start,
        )
        return [
            torch.load(Path(folder) / f'{rank}.pt', weights_only=False)
            for rank in range(world_size)
        ]


def _worker(rank, function, world_size, port, folder, args):
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
    )
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    try:
        torch.save(function(rank, *args), Path(folder) / f'{rank}.pt')
    finally:
        dist.destroy_process_group()
