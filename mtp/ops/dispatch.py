"""Which form of an operator runs: its Triton kernel or its twin in torch.

Triton kernels take float32, bfloat16 and float16 tensors on an NVIDIA GPU of compute capability
8.0 or newer, or on an AMD one; everything else runs in torch. The environment variable
``MTP_KERNELS`` chooses: unset, as just said; ``torch`` never takes a kernel; ``triton`` always
does, and is an error where there is none (with ``TRITON_INTERPRET=1`` it takes CPU tensors too,
which Triton's interpreter works on, slowly). ``python -m mtp.info`` tells what will run.
"""
import importlib.util
import os

import torch
from torch import Tensor

SETTING = os.environ.get('MTP_KERNELS', '')
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# asked once: torch.compile cannot trace the question
_TRITON_INSTALLED = importlib.util.find_spec('triton') is not None

if SETTING not in ('', 'torch', 'triton'):
    raise ValueError(f'MTP_KERNELS={SETTING!r}: set it to torch or triton, or unset it')


def use_triton(*tensors: Tensor) -> bool:
    """Whether an operator on these tensors runs as a Triton kernel.

    Args:
        tensors: the operands, on one device.

    Raises:
        ValueError: ``MTP_KERNELS=triton``, but no kernel can take them.
    """
    if SETTING == 'torch':
        return False
    reason = _reason_against(tensors[0].device, tuple(tensor.dtype for tensor in tensors))
    if reason and SETTING == 'triton':
        raise ValueError(f'MTP_KERNELS=triton, but {reason}: unset it')
    return reason is None


def report() -> str:
    """Which form runs on the device at hand and why, in a line."""
    if SETTING == 'torch':
        return 'torch (MTP_KERNELS=torch)'
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    reason = _reason_against(device, DTYPES[:1])
    return f'torch ({reason})' if reason else f'Triton on {device}, torch for float64'


def _reason_against(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> str | None:
    if not _TRITON_INSTALLED:
        return 'Triton is not installed'
    if device.type == 'cpu':
        if SETTING != 'triton' or os.environ.get('TRITON_INTERPRET') != '1':
            return 'Triton has no CPU kernels'
    elif device.type != 'cuda':
        return f'no kernel is written for {device.type}'
    elif not torch.version.hip and torch.cuda.get_device_capability(device) < (8, 0):
        return 'the GPU is older than compute capability 8.0'
    wide = [dtype for dtype in dtypes if dtype.is_floating_point and dtype not in DTYPES]
    return f'no kernel takes {wide[0]}' if wide else None
