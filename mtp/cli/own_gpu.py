"""Choose the GPUs that a process sees, before torch starts."""

import os
from collections.abc import Mapping, MutableMapping

from mtp.machine import LAUNCHERS, nvidia_device_files


def choose_device(
    device: str, launcher: str = 'none', environment: MutableMapping[str, str] = os.environ
) -> None:
    """Make the device that was asked for the only visible one.

    Args:
        device: ``'auto'``, ``'cpu'``, ``'cuda'`` or ``'cuda:N'``, the N-th visible GPU from 0.
        launcher: as of :func:`show_own_gpu`.
        environment: environment variables of this process, changed in place.

    Raises:
        ValueError: there is no such GPU.
    """
    if device == 'cpu':
        environment['CUDA_VISIBLE_DEVICES'] = ''
    elif device.startswith('cuda:'):
        gpus, number = _visible(environment), int(device.removeprefix('cuda:'))
        if number >= len(gpus):
            there = ', '.join(f'cuda:{index}' for index in range(len(gpus)))
            raise ValueError(f'--device {device}: of GPUs there are {there or "none"}')
        environment['CUDA_VISIBLE_DEVICES'] = gpus[number]
    else:
        show_own_gpu(launcher, environment)


def show_own_gpu(launcher: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Make this process's GPU the only visible one, and thereby ``cuda:0``.

    Caches of compiled code depend on the device index; otherwise each process of a machine would
    compile for itself. torchrun does the same with ``--virtual-local-rank``. If
    ``CUDA_VISIBLE_DEVICES`` is not set, GPUs are counted by their device files. If there is no GPU
    for this process, nothing changes, and :mod:`mtp.cli.processes` tells the user.

    Args:
        launcher: ``'none'``, or a key of :data:`mtp.machine.LAUNCHERS`.
        environment: environment variables of this process, changed in place.
    """
    if launcher == 'none' or (variable := LAUNCHERS[launcher].local_rank) not in environment:
        return
    number, gpus = int(environment[variable]), _visible(environment)
    if number < len(gpus):
        environment.update({'CUDA_VISIBLE_DEVICES': gpus[number], variable: '0'})


def _visible(environment: Mapping[str, str]) -> list[str]:
    """Return the indices or ids of the GPUs that this process may see."""
    visible = environment.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        return [str(index) for index in range(len(nvidia_device_files()))]
    return [gpu for gpu in visible.split(',') if gpu]
