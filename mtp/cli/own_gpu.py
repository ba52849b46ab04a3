"""Show each process of a machine its own GPU alone, before torch starts."""
import os
import re
from collections.abc import MutableMapping
from pathlib import Path

# launcher -> the variable that holds a process's number on its machine
LOCAL_RANK = {'pytorch': 'LOCAL_RANK', 'slurm': 'SLURM_LOCALID'}


def show_own_gpu(launcher: str, environment: MutableMapping[str, str] = os.environ,
                 devices: Path = Path('/dev')) -> None:
    """Make this process's GPU the only one that it sees, and thereby ``cuda:0``.

    The caches of compiled code hold the number of the device, so that otherwise each process of a
    machine would compile for itself. torchrun does the same with ``--virtual-local-rank``. Where
    there is no GPU for this process nothing is changed: :mod:`mtp.engine.launch` tells the user.

    Args:
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.
        environment: variables of this process, changed in place.
        devices: folder of the device files, by whose number GPUs are counted where
            ``CUDA_VISIBLE_DEVICES`` is not set.
    """
    variable = LOCAL_RANK.get(launcher)
    if variable is None or variable not in environment:
        return
    number = int(environment[variable])
    visible = environment.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        count = sum(re.fullmatch(r'nvidia\d+', path.name) is not None
                    for path in devices.glob('nvidia*'))
        gpus = [str(index) for index in range(count)]
    else:
        gpus = [gpu for gpu in visible.split(',') if gpu]
    if number < len(gpus):
        environment.update({'CUDA_VISIBLE_DEVICES': gpus[number], variable: '0'})
