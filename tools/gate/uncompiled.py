"""Launches of a training step outside the compiled parts."""

from collections import Counter
from typing import Any

import torch

from tools.gate import backward, own
from tools.gate.counter import LaunchCounter
from tools.gate.trace import Tracer


class Uncompiled(LaunchCounter):
    """Counter of the launches outside the compiled parts.

    Attributes:
        taken: place in the step -> number of launches.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer
        self.taken: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        node = backward.running() or torch._C._current_autograd_node()
        if node in self._tracer.nodes:
            return func(*args, **kwargs or {})
        if own.is_own(func):
            lowering = self._tracer.lowering
            self.launches['mtp', ''] += (
                lowering.note_own(func, args, kwargs or {}, lowering.targets[0]) - 1
            )
        return super().__torch_dispatch__(func, types, args, kwargs)

    def take(self, where: str) -> None:
        """Record the launches since the last call under ``where``."""
        self.taken[where] = self.total()
        self.launches = Counter()
