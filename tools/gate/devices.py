"""The simulated GPUs and their limits; imports no torch."""

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Device:
    """A GPU as ``torch.cuda.get_device_properties`` describes it.

    Values are those of NVIDIA's CUDA programming guide (technical specifications per compute
    capability) and data sheets.
    """

    name: str
    major: int
    minor: int
    multi_processor_count: int
    shared_memory_per_block_optin: int
    max_threads_per_multi_processor: int
    total_memory: int
    L2_cache_size: int
    shared_memory_per_block: int = 48 * KIB
    regs_per_multiprocessor: int = 64 * KIB
    max_threads_per_block: int = 1024
    warp_size: int = 32
    uuid: str = ''
    gcnArchName: str = ''
    is_integrated: int = 0

    @property
    def capability(self) -> int:
        """Compute capability as one number, e.g. 90."""
        return 10 * self.major + self.minor

    @property
    def shared_memory_per_multiprocessor(self) -> int:
        """Bytes; the system keeps one KiB of it for each block."""
        return self.shared_memory_per_block_optin + KIB


def _device(
    name: str,
    capability: int,
    processors: int,
    shared_kib: int,
    threads: int,
    memory_gib: int,
    l2_mib: int,
) -> Device:
    return Device(
        name,
        *divmod(capability, 10),
        processors,
        shared_kib * KIB,
        threads,
        memory_gib << 30,
        l2_mib << 20,
    )


DEVICES = {
    device.capability: device
    for device in (
        _device('A100', 80, 108, 163, 2048, 80, 40),
        _device('RTX 3090', 86, 82, 99, 1536, 24, 6),
        _device('RTX 4090', 89, 128, 99, 1536, 24, 72),
        _device('H200', 90, 132, 227, 2048, 141, 60),
        _device('RTX 5090', 120, 170, 99, 1536, 32, 96),
    )
}
