"""A process's rank, GPUs and packages without torch."""

import importlib.metadata
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path('/dev')
PACKAGES = (
    'torch',
    'torchvision',
    'triton',
    'timm',
    'numpy',
    'opencv-python',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmsegmentation',
    'onedl-mmrotate',
    'onedl-mmpretrain',
    'pycocotools',
    'faster-coco-eval',
)


@dataclass(frozen=True)
class Launcher:
    """Command that starts the processes of a run, and the environment variables that it sets.

    Attributes:
        command: command that starts the processes.
        rank: variable that holds the index of a process among all processes, from 0.
        local_rank: variable that holds the index of a process on its machine, from 0.
        world_size: variable that holds the number of processes.
        restarts: variable that holds the number of restarts; it may be missing before the first.
    """

    command: str
    rank: str
    local_rank: str
    world_size: str
    restarts: str


LAUNCHERS = {
    'pytorch': Launcher(
        'torchrun', 'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'TORCHELASTIC_RESTART_COUNT'
    ),
    'slurm': Launcher(
        'srun', 'SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS', 'SLURM_RESTART_COUNT'
    ),
}


def nvidia_device_files() -> list[Path]:
    """Return the device files of NVIDIA GPUs, including those that this process may not open."""
    return sorted(path for path in DEVICES.glob('nvidia*') if path.name[6:].isdigit())


def started(pid: object) -> str | None:
    """Return when a process of this machine was started, which tells it from later ones.

    Returns:
        str | None: clock ticks since the machine was started; None where it is no process.
    """
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return None
    return None if fields[0] == 'Z' else fields[19]


def machine_id() -> str:
    """Return what tells this machine, since it was started, and its processes from others."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot}/{os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return socket.gethostname()


def versions() -> dict[str, str]:
    """Return package -> version, of the installed ones that mtp builds on."""
    found = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
