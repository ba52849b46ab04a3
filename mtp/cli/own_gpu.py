"""Restrict each process of a machine to its own GPU, before torch starts."""

import os
from collections.abc import MutableMapping

from mtp.machine import LAUNCHERS, nvidia_device_files


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
    number = int(environment[variable])
    visible = environment.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        gpus = [str(index) for index in range(len(nvidia_device_files()))]
    else:
        gpus = [gpu for gpu in visible.split(',') if gpu]
    if number < len(gpus):
        environment.update({'CUDA_VISIBLE_DEVICES': gpus[number], variable: '0'})
