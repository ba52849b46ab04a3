"""Learning rates on the device, which a captured update reads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer


class DeviceRates:
    """Learning rates of an optimiser's groups, one after the other in a tensor of the device.

    Schedulers, log and checkpoints keep plain numbers; only :meth:`Optimizer.step` reads these.

    Args:
        optimizer: the optimiser.
        device: device of its parameters.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self._groups = optimizer.param_groups
        self._values = torch.zeros(len(self._groups), device=device)
        self._of_groups: tuple[Tensor, ...] = self._values.unbind()

    def refresh(self) -> None:
        """Copy the plain numbers to the device; the host does not wait for it."""
        values = torch.tensor([group['lr'] for group in self._groups], dtype=torch.float32)
        if self._values.is_cuda:
            values = values.pin_memory()
        self._values.copy_(values, non_blocking=True)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the optimiser read the rates from the device.

        While a CUDA graph is captured, its groups are also ``capturable``, as torch's classes
        ask for.
        """
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        plain = [dict(group) for group in self._groups]
        try:
            for group, value in zip(self._groups, self._of_groups):
                group['lr'] = value
                if capturing and 'capturable' in group:
                    group['capturable'] = True
            yield
        finally:
            for group, values in zip(self._groups, plain):
                group.update(values)
