"""``python -m mtp.info``: versions, devices, and the backend of each operator with the reason.

Each kernel is tried with a small call, so that those which fail on this machine are listed.
"""

import os
import pkgutil
import platform
import sys

import torch

import mtp
import mtp.ops.triton
from mtp.machine import PACKAGES, versions
from mtp.ops import dispatch, mmcv_ext, trials


def report() -> str:
    """Return a description of this installation as text."""
    lines = [f'mtp {mtp.__version__}, Python {platform.python_version()}, {sys.platform}']
    found = versions()
    lines += [f'  {name:<22}{found.get(name, "not installed")}' for name in PACKAGES]
    lines.append(
        'devices: '
        + (
            ', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
            or f'CPU only, {torch.get_num_threads()} threads'
        )
    )
    kernels = [
        module.name
        for module in pkgutil.iter_modules(mtp.ops.triton.__path__)
        if module.name != 'common'
    ]
    lines.append(f'mtp.ops: {dispatch.report()}, in each module with a kernel:')
    lines += [f'  {name}' for name in kernels]
    lines += _fallen()
    native = mmcv_ext.choice() == 'native'
    setting = os.environ.get('MTP_OPS')
    why = (
        f'MTP_OPS={setting}'
        if setting
        else 'compiled extension found'
        if native
        else 'mmcv has no compiled extension'
    )
    if native:
        lines.append(f'mmcv.ops: native ({why})')
    else:
        lines.append(f'mmcv.ops: portable ({why}); provided by mtp:')
        lines += [f'  {name}' for name in mmcv_ext.PROVIDED]
    return '\n'.join(lines)


def _fallen() -> list[str]:
    """Return lines on the settings of fall-backs, and on the operators that fall back here."""
    settings = ', '.join(
        f'{name} {os.environ.get(name) or "unset"}' for name in ('MTP_KERNELS', 'MTP_STRICT')
    )
    failed = trials.refusals('cuda' if torch.cuda.is_available() else 'cpu')
    if not failed:
        return [f'fall-backs ({settings}): none']
    return [
        f'fall-backs ({settings}), to slower forms:',
        *(f'  {name}: {reason}' for name, reason in failed.items()),
    ]


if __name__ == '__main__':
    print(report())
