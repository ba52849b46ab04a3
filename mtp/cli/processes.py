"""Processes of a run, started by a launcher."""

import os
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

from mtp.machine import LAUNCHERS

LIMIT = 1800  # seconds that processes wait for each other where the config has no limit


def join_processes(cfg: Config) -> None:
    """Let this process join those that the config's launcher has started, if there is one.

    Raises:
        ValueError: this process was not started as its launcher requires.
    """
    if cfg.launcher == 'none':
        return
    _check_launcher(cfg.launcher)
    settings = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if torch.cuda.is_available():
        # as the runner does it later: before that the processes agree on what they go on from
        set_multi_processing(**cfg.get('env_cfg', {}).get('mp_cfg', {}), distributed=True)
        init_dist(cfg.launcher, **settings)
    else:
        # mmengine selects a GPU per process before it looks at the backend.
        limit = timedelta(seconds=settings.get('timeout', LIMIT))
        torch.distributed.init_process_group('gloo', timeout=limit)
        cfg.sync_bn = None  # torch's batch norm of a user's config works on accelerators only


def number_of_processes(launcher: str) -> int:
    """Return the number of processes that a launcher has started, including this one."""
    return 1 if launcher == 'none' else int(os.environ[LAUNCHERS[launcher].world_size])


def leave_processes() -> None:
    """Destroy the process group explicitly.

    Otherwise the interpreter's shutdown can abort a finished run.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_launcher(launcher: str) -> None:
    facts = LAUNCHERS[launcher]
    if facts.rank not in os.environ:
        raise ValueError(
            f'--launcher {launcher} is for processes that {facts.command} starts, and '
            f'{facts.rank} is not set: start this command with {facts.command}, or '
            'leave out --launcher'
        )
    number, gpus = int(os.environ.get(facts.local_rank, 0)), torch.cuda.device_count()
    if launcher == 'slurm' and gpus == 0:
        raise ValueError(
            '--launcher slurm needs a GPU for each process, and none is visible: ask '
            'srun for GPUs, or use --launcher pytorch, which also runs on CPUs'
        )
    if 0 < gpus <= number:
        raise ValueError(
            f'process {number} of this machine has no GPU of its own, {gpus} visible: '
            'start at most one process per GPU, each with all GPUs visible'
        )
