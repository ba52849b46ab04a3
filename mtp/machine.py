"""What tells a process its place on a machine without torch: launchers' variables, device files."""

from dataclasses import dataclass
from pathlib import Path

DEVICES = Path('/dev')


@dataclass(frozen=True)
class Launcher:
    """What starts the processes of a run, and the variables that it sets in each.

    Attributes:
        command: that starts them.
        rank: variable with the number of a process among all.
        local_rank: variable with its number on its machine.
        world_size: variable with the number of processes.
        restarts: variable with how often they have been started again, where they have.
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
    """Return the device files of NVIDIA GPUs, also of those that this process may not open."""
    return sorted(path for path in DEVICES.glob('nvidia*') if path.name[6:].isdigit())
