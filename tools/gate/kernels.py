"""Compile Triton kernels for a missing GPU; nothing is launched."""

import logging
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from torch._inductor.codecache import PyCodeCache
from torch._inductor.runtime.hints import DeviceProperties
from triton.compiler import CompiledKernel
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from mtp.fallback import reason_in_a_line
from tools.gate.devices import Device
from tools.gate.lower import processor_seconds
from tools.gate.presence import present

CUOBJDUMP = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
OF_DEVICE = re.compile(r'DeviceProperties\([^)]*\)')


@dataclass
class Compiled:
    """Needs of a kernel: those of its most demanding configuration.

    Attributes:
        seconds: processor time of all configurations, seconds.
        configurations: number of configurations that the autotuner chooses from.
        shared: shared memory of a block, bytes.
        registers: number of registers of a thread.
        spilled: stack of a thread, bytes.
        refused: reason why no configuration can run, or None.
    """

    seconds: float = 0.0
    configurations: int = 0
    shared: int = 0
    registers: int = 0
    spilled: int = 0
    refused: str | None = None


def compile_inductor(source: str, device: Device) -> Compiled:
    """Compile a kernel's source as inductor wrote it, for the given or another device."""
    logging.getLogger('torch._inductor.runtime.triton_heuristics').setLevel(logging.CRITICAL + 1)
    with present(device), torch._inductor.config.patch(use_static_triton_launcher=False):
        properties = repr(DeviceProperties.create(torch.device('cuda', 0)))
        kernel = PyCodeCache.load(OF_DEVICE.sub(lambda _: properties, source)).triton_
        return compile_each(
            [
                lambda config=config: kernel._precompile_config(config).kernel
                for config in kernel.configs
            ],
            device,
        )


def compile_each(configurations: list[Callable[[], CompiledKernel]], device: Device) -> Compiled:
    """Compile the configurations of a kernel, one of which must be able to run."""
    found, reasons = Compiled(), []
    begun = processor_seconds()
    for configuration in configurations:
        try:
            check(configuration(), device, found)
            found.configurations += 1
        except (OutOfResources, PTXASError) as error:  # the autotuner drops such a configuration
            reasons.append(reason_in_a_line(error))
        except Exception as error:  # anything else ends the run
            found.refused = _reason(error)
    if not found.configurations and not found.refused:
        found.refused = '; '.join(reasons)
    found.seconds = processor_seconds() - begun
    return found


def _reason(error: Exception) -> str:
    # Triton prints the code first, and the reason in the last line
    if isinstance(error, CompilationError):
        return f'CompilationError: {str(error).strip().splitlines()[-1]}'
    return reason_in_a_line(error)


def check(kernel: CompiledKernel, device: Device, found: Compiled) -> None:
    """Add the needs of a compiled kernel to ``found``.

    Raises:
        OutOfResources: the kernel needs more than the device has; a launch would raise the same.
    """
    shared, registers, stack = kernel.metadata.shared, *resources(kernel.asm['cubin'])
    threads = 32 * kernel.metadata.num_warps
    for needed, limit, name in (
        (shared, device.shared_memory_per_block_optin, 'shared memory'),
        (threads, device.max_threads_per_block, 'threads'),
        (threads * registers, device.regs_per_multiprocessor, 'registers'),
    ):
        if needed > limit:
            raise OutOfResources(needed, limit, name)
    found.shared = max(found.shared, shared)
    found.registers = max(found.registers, registers)
    found.spilled = max(found.spilled, stack)


def resources(cubin: bytes) -> tuple[int, int]:
    """Return registers and stack bytes of a thread, read by cuobjdump."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, '--dump-resource-usage', file.name],
            text=True,
            capture_output=True,
            check=True,
        ).stdout
    return tuple(int(re.search(rf'{what}:(\d+)', usage)[1]) for what in ('REG', 'STACK'))
