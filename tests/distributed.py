"""Run a function on several CPU processes that talk through gloo."""

import faulthandler
import multiprocessing
import os
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import mtp  # noqa: F401  (a started process has no conftest)

# Imported once, by a server without threads whose forks the processes are: on its own, each takes
# longer to import them than most functions take to run.
multiprocessing.set_forkserver_preload(
    ['mtp.models', 'mtp.evaluation', 'mtp.data.readers', 'mtp.cli.launch', 'torch._dynamo']
)


def run_processes(function, world_size: int, *args) -> list:
    """Results by rank of ``function(rank, *args)``, called on ``world_size`` processes."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _worker,
            (function, world_size, port, folder, dict(os.environ), args),
            nprocs=world_size,
            start_method='forkserver',
        )
        return [
            torch.load(Path(folder) / f'{rank}.pt', weights_only=False)
            for rank in range(world_size)
        ]


def _worker(rank, function, world_size, port, folder, environment, args):
    faulthandler.enable()  # where a process crashes, pytest's report says in which line
    os.environ.clear()  # the server's are those of the test that started it
    os.environ.update(
        environment,
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
    )
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    # The group is left as it is: the process ends at once, without the interpreter's shutdown. A
    # process has crashed here once, in a thread that is not Python's, when its group was destroyed.
    torch.save(function(rank, *args), Path(folder) / f'{rank}.pt')
