"""The project's own kernels as real launches specialise them.

An operator of mtp runs on fake tensors, and its launches are noted. Triton compiles a kernel anew
for each set of types, constants, and integers that are 1 or divisible by 16.
"""

import hashlib
import importlib
import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.utils._pytree as pytree
from torch import SymInt, Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction, MockTensor

from tools.gate.counter import LaunchCounter
from tools.gate.devices import Device
from tools.gate.presence import present

ALIGNED, ODD, LARGE = 16, 17, 1 << 40  # stand-ins for integers that Triton treats alike

Launch = dict[str, Any]


def is_own(operator: Any) -> bool:
    """Return whether an operator is one of mtp's."""
    return isinstance(operator, torch._ops.OpOverload) and operator.namespace == 'mtp'


def launches_of(
    operator: torch._ops.OpOverload, args: tuple, kwargs: dict, device: Device
) -> tuple[list[Launch], int]:
    """Return the launches of mtp's kernels by an operator of mtp, and the number of all launches.

    Args:
        operator: operator of the namespace ``mtp``.
        args: fake tensors, whose shapes and types are used, and numbers.
        kwargs: keyword arguments of the same kinds.
        device: device to answer the launcher's queries for.
    """
    found: list[Launch] = []

    def note(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        constants = {p.name for p in kernel.params if p.is_constexpr}
        values = dict(zip(kernel.arg_names, args)) | kwargs
        found.append(
            dict(
                module=kernel.__module__,
                kernel=kernel.__name__,
                values={
                    name: value
                    if name in constants or name not in kernel.arg_names
                    else _specialised(value)
                    for name, value in values.items()
                },
            )
        )

    with FakeTensorMode(), torch.no_grad(), present(device), patch.object(JITFunction, 'run', note):
        args, kwargs = pytree.tree_map(_concrete, (args, kwargs))
        with LaunchCounter() as counter:
            operator._op_dk(_key(operator), *args, **kwargs)  # its code, not its fake
    return found, len(found) + counter.total()


def _key(operator: torch._ops.OpOverload) -> torch.DispatchKey:
    for_all = torch.DispatchKey.CompositeExplicitAutograd
    if torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), for_all):
        return for_all
    return torch.DispatchKey.CUDA


def _concrete(value: Any) -> Any:
    if isinstance(value, SymInt):
        return value.node.hint
    if isinstance(value, Tensor):
        return torch.empty_strided(
            [_concrete(n) for n in value.shape],
            [_concrete(n) for n in value.stride()],
            dtype=value.dtype,
            device='cuda',
        )
    return value


def _specialised(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_specialised(element) for element in value]  # as JSON keeps it
    if isinstance(value, Tensor):
        return f'*{str(value.dtype).removeprefix("torch.")}'
    if isinstance(value, float):
        return 0.5  # any
    if isinstance(value, bool) or not isinstance(value, int) or value == 1:
        return value
    return (ODD if value % 16 else ALIGNED) + (LARGE if value >= 2**31 else 0)


def _stand_in(value: Any) -> Any:
    """Return an argument that Triton specialises a kernel for like the noted one."""
    if isinstance(value, list):
        return tuple(map(_stand_in, value))
    if isinstance(value, str) and value.startswith('*'):
        return MockTensor(getattr(torch, value[1:]))
    return value


def key_of(launch: Launch) -> str:
    """Return a hash of everything that a kernel's code depends on."""
    return hashlib.sha256(json.dumps(launch, sort_keys=True).encode()).hexdigest()[:16]


def compiler_of(launch: Launch, device: Device) -> Callable[[], CompiledKernel]:
    """Return a function that compiles the kernel of a launch."""
    kernel = getattr(importlib.import_module(launch['module']), launch['kernel'])
    values = {name: _stand_in(value) for name, value in launch['values'].items()}

    def compile_it() -> CompiledKernel:
        with present(device):
            kernel.device_caches.clear()  # they may be of another device
            # by position: an argument may have the name of one of run's
            args = [values[name] for name in kernel.arg_names]
            options = {n: v for n, v in values.items() if n not in kernel.arg_names}
            return kernel.run(*args, grid=(1,), warmup=True, **options)

    return compile_it
