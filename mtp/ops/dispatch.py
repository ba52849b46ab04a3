"""Choice of an operator's backend: its Triton kernel or its twin in torch.

Triton kernels take float32, bfloat16 and float16 tensors on an NVIDIA GPU of compute capability
8.0 or newer, or on an AMD GPU; everything else runs in torch. The environment variable
``MTP_KERNELS`` changes that: ``torch`` never uses a kernel; ``triton`` always does, and warns where
none is available (with ``TRITON_INTERPRET=1`` also for CPU tensors, in Triton's slow interpreter).
Where Triton refuses a kernel, its twin takes over (:func:`else_twin`). ``python -m mtp.info``
reports what will run.

An operator's module imports its kernel in the call that runs it. No kernel imports an operator's
module: its twin (:func:`twin_of`) and the limits that both share are here.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from mtp.fallback import fall_back, fallen

P = ParamSpec('P')
R = TypeVar('R')
F = TypeVar('F', bound=Callable[..., Any])

SETTING = os.environ.get('MTP_KERNELS', '')
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# looked up once: torch.compile cannot trace the look-up
_TRITON_INSTALLED = importlib.util.find_spec('triton') is not None
# Largest group of boxes whose flags fit one program of horizontal suppression.
MOST_BOXES = 1 << 14
# Largest number of samples per bin and axis, however large the bin is: without a limit, one RoI of
# a diverged detector would occupy the device forever.
MAX_ADAPTIVE_SAMPLES = 1024
# Number of programs that sum over a group of images in batch normalisation: enough to occupy a GPU
# with one group of 64 channels.
BATCH_NORM_SPLITS = 64
# Largest group of rows that batch normalisation takes in one launch: a program holds them in
# registers, 16 values a thread, and a group takes it less time than the launches that it saves.
BATCH_NORM_FEW_ROWS = 512

# name of an operator's launcher -> its twin
_TWINS: dict[str, Callable[..., Any]] = {}

if SETTING not in ('', 'torch', 'triton'):
    raise ValueError(f'MTP_KERNELS={SETTING!r}: set it to torch or triton, or unset it')


def use_triton(*tensors: Tensor) -> bool:
    """Return whether an operator on these tensors runs as a Triton kernel.

    Args:
        tensors: operands, on one device.

    Raises:
        FallbackError: under ``MTP_STRICT=1``, ``MTP_KERNELS=triton`` is set and no kernel can take
            the tensors, or Triton cannot be imported.
    """
    if SETTING == 'torch':
        return False
    reason = _reason_against(tensors[0].device, tuple(tensor.dtype for tensor in tensors))
    if reason and SETTING == 'triton':
        _note('MTP_KERNELS=triton', reason)
    return reason is None and _triton_imports()


def twin_of(launcher: str) -> Callable[[F], F]:
    """Return a decorator that registers a function as the twin of a kernel's launcher.

    The twin takes the launcher's arguments and returns a tensor, or a tuple or list of tensors.

    Args:
        launcher: name of the launcher, which is also that of its ``torch.library`` operator.
    """

    def register(twin: F) -> F:
        _TWINS[launcher] = twin
        return twin

    return register


def else_twin(
    layout: torch.memory_format = torch.contiguous_format,
    atomics: bool = False,
    part: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator of a kernel's launcher that lets its twin take over if Triton refuses it.

    Apply it below ``torch.library.custom_op``, so that eager and compiled code behave alike. The
    launcher's name is that of the operator; ``<operator>_backward`` also follows its forward pass
    to the twin. A refused kernel is not tried again in this process.

    Args:
        layout: memory format of the launcher's results; the twin's are converted to it, except for
            ``torch.preserve_format``.
        atomics: whether the kernels add to memory in any order. Then the twin, which does not, runs
            under ``torch.use_deterministic_algorithms``.
        part: name of the operator that the launcher is a part of, whose launchers all fall back
            together; default: the launcher's own.
    """

    def decorate(launcher: Callable[P, R]) -> Callable[P, R]:
        name = part or launcher.__name__
        # the package, imported before its kernels, has registered all twins
        twin = _TWINS[launcher.__name__]
        names = {name, name.removesuffix('_backward')}

        @functools.wraps(launcher)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            unordered = atomics and torch.are_deterministic_algorithms_enabled()
            if not unordered and names.isdisjoint(fallen()):
                try:
                    return launcher(*args, **kwargs)
                except Exception as error:
                    if not _is_refusal(error):
                        raise
                    fall_back(name, 'its form in torch runs', error)
            return _laid_out(twin(*args, **kwargs), layout)

        return run

    return decorate


def _laid_out(result: Any, layout: torch.memory_format) -> Any:
    """Convert a tensor, or a tuple or list of tensors, to a memory format."""
    if layout == torch.preserve_format:
        return result
    if isinstance(result, Tensor):
        return result.contiguous(memory_format=layout)
    return type(result)(tensor.contiguous(memory_format=layout) for tensor in result)


def gradients(
    twin: Callable[..., Tensor], operands: tuple[Tensor, ...], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of all operands of a function of tensors.

    Uses ``torch.func``, which also works inside the implementation of an operator, where
    ``torch.autograd`` is disabled.
    """
    return torch.func.vjp(twin, *operands)[1](grad_output)


def _is_refusal(error: Exception) -> bool:
    """Return whether an error comes from Triton or its tools, not from the GPU or its memory."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or 'CUDA error' in text or 'HIP error' in text:
        return False
    # The prefix marks errors of the driver, one of which is that it cannot load a kernel's code.
    return not text.startswith('Triton Error [') or 'kernel image' in text


def report() -> str:
    """Return the backend on this machine's device and the reason, in one line."""
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


# Dynamo runs the two functions below while it traces, and treats their results as constants.


@torch.compiler.assume_constant_result
def _triton_imports() -> bool:
    if 'Triton' in fallen():
        return False
    try:
        import triton.language  # noqa: F401
    except Exception as error:
        fall_back('Triton', 'every operator runs in torch', error)
        return False
    return True


@torch.compiler.assume_constant_result
def _note(part: str, reason: str) -> None:
    fall_back(part, 'operators on such tensors run in torch', reason)
