"""Answers in place of a driver's, as if a GPU were there."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch._inductor.scheduler
import torch._subclasses.fake_tensor
import torch.utils._triton
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import utils as inductor_utils
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.hints import DeviceProperties
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tools.gate.devices import Device

# functions of torch._inductor.utils that cache properties of the device
CACHED = ('is_big_gpu', 'get_max_num_sms', 'using_b200', 'get_device_tflops', 'get_gpu_dram_gbps')


class Driver:
    """Answers to what Triton asks its driver while it compiles."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return GPUTarget('cuda', self._device.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, *_: Any) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_device_properties(self, _: int) -> dict[str, int]:
        device = self._device
        return dict(
            max_shared_mem=device.shared_memory_per_block_optin,
            multiprocessor_count=device.multi_processor_count,
            warpSize=32,
            max_num_regs=device.regs_per_multiprocessor,
        )


def use_driver(device: Device) -> None:
    """Make Triton compile for ``device`` in this process from now on."""
    driver.set_active(Driver(device))
    triton_helpers.set_driver_to_gpu = lambda: driver.set_active(Driver(device))


@contextmanager
def present(device: Device) -> Iterator[None]:
    """Answer the queries of torch and inductor as if ``device`` were there."""
    capability = (device.major, device.minor)
    cuda = dict(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        get_device_properties=lambda *_, **__: device,
        get_device_name=lambda *_: device.name,
        get_device_capability=lambda *_, **__: capability,
        is_bf16_supported=lambda *_, **__: True,
        _lazy_init=lambda: None,
        _exchange_device=lambda _: 0,
        _maybe_exchange_device=lambda _: 0,
        get_rng_state=lambda *_, **__: torch.zeros(16, dtype=torch.uint8),
        set_rng_state=lambda *_, **__: None,
        synchronize=lambda *_, **__: None,
        set_device=lambda *_, **__: None,
    )
    interface = dict(
        is_available=lambda: True,
        current_device=lambda: 0,
        exchange_device=lambda _: 0,
        maybe_exchange_device=lambda _: 0,
        get_raw_stream=lambda _: 0,
        get_compute_capability=lambda _=None: device.capability,
        get_device_properties=lambda _=None: device,
    )
    use_driver(device)
    for cached in (DeviceProperties.create, *(getattr(inductor_utils, name) for name in CACHED)):
        cached.cache_clear()
    with ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        for owner, names in (
            (CudaInterface, interface),
            (CudaInterface.Worker, ('get_device_properties', 'current_device')),
        ):
            for name in names:
                stack.enter_context(patch.object(owner, name, staticmethod(interface[name])))
        for module in (torch._inductor.scheduler, torch.utils._triton):
            stack.enter_context(patch.object(module, 'has_triton', lambda *_: True))
        stack.enter_context(
            patch.object(torch._subclasses.fake_tensor, 'init_gpu_context', lambda *_: None)
        )
        yield
