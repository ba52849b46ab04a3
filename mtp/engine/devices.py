"""Check and describe the device of a run before anything runs on it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from mtp.machine import nvidia_device_files

# The first compute capability whose tensor cores take bfloat16.
BFLOAT16 = (8, 0)


def require_usable_gpu(device: str = 'auto') -> None:
    """Refuse to run on the CPU if a GPU was asked for, or is there and torch cannot use it.

    Args:
        device: as of :func:`mtp.cli.own_gpu.choose_device`.

    Raises:
        ValueError: there is no GPU, or an NVIDIA GPU that ``CUDA_VISIBLE_DEVICES`` does not hide;
            the message quotes torch and says how to mend it.
    """
    if torch.cuda.is_available():
        return
    found = [] if _hidden() else visible_nvidia_gpus()
    if found:
        raise ValueError(
            f'this machine has an NVIDIA GPU ({found[0]}), but torch {torch.__version__} cannot '
            f'use it: {_why_unusable()}. {_driver()}Install a torch build for this driver or a '
            'newer driver; to run on the CPU all the same, many times more slowly: --device cpu'
        )
    if device.startswith('cuda'):
        why = 'CUDA_VISIBLE_DEVICES hides every GPU' if _hidden() else 'torch finds no GPU here'
        raise ValueError(f'--device {device}: {why}. To run on the CPU, leave it out')


def describe_device() -> Iterator[str]:
    """Yield log lines that describe the device of a run and its limits."""
    if not torch.cuda.is_available():
        why = 'every GPU is hidden' if _hidden() else 'no GPU was found'
        threads = torch.get_num_threads()
        yield f'Device: CPU with {threads} thread{"s" if threads > 1 else ""}, because {why}'
        return
    capability = torch.cuda.get_device_capability()
    yield (
        f'Device: {torch.cuda.get_device_name()}, '
        f'{torch.cuda.get_device_properties().total_memory / 2**30:.0f} GiB'
    )
    if not torch.version.hip and capability < BFLOAT16:
        yield (
            f'This GPU, of compute capability {capability[0]}.{capability[1]}, does not compute '
            'in bfloat16 (8.0 and newer do): the run is in float32, unless --amp on makes it '
            'emulate bfloat16, which is slower still'
        )


def visible_nvidia_gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may open, without asking torch.

    A container or a SLURM job may list devices that it may not open, and the driver's folder below
    ``/proc`` exists even in containers without a GPU.
    """
    found = [str(path) for path in nvidia_device_files() if _opens(path)]
    return found or _listed_by_driver()


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def _listed_by_driver() -> list[str]:
    # for systems without device files, such as WSL
    if shutil.which('nvidia-smi') is None:
        return []
    try:
        result = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = result.stdout.splitlines() if result.returncode == 0 else []
    return [line for line in lines if line.startswith('GPU ')]


def _hidden() -> bool:
    """Return whether CUDA_VISIBLE_DEVICES hides every GPU."""
    return os.environ.get('CUDA_VISIBLE_DEVICES', '0').strip() in ('', '-1')


def _why_unusable() -> str:
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).strip().splitlines()[0].rstrip('.')
    return 'it finds none'


def _driver() -> str:
    version = Path('/proc/driver/nvidia/version')
    if not version.is_file():
        return ''
    return f'The driver: {version.read_text().splitlines()[0].partition(":")[2].strip()}. '
