"""Launches of a training step outside the compiled parts."""

from collections import Counter
from typing import Any

import torch

from tools.benchmark.counting.launches import COPIES
from tools.gate import backward, own
from tools.gate.counter import LaunchCounter
from tools.gate.trace import Tracer


class Uncompiled(LaunchCounter):
    """Counter of the launches outside the compiled parts.

    Args:
        tracer: tracer of the compiled parts.
        captured: whether the step is to be captured: then it may not take values from the host, nor
            give it any.

    Attributes:
        taken: place in the step -> number of launches.
    """

    def __init__(self, tracer: Tracer, captured: bool = False) -> None:
        super().__init__()
        self._tracer = tracer
        self._captured = captured
        self._copies: Counter[tuple[str, str]] = Counter()
        self.taken: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        nodes = backward.running() or (torch._C._current_autograd_node(),)
        if self._tracer.nodes.issuperset(nodes):
            return func(*args, **kwargs or {})
        if own.is_own(func):
            lowering = self._tracer.lowering
            self.launches['mtp', ''] += (
                lowering.note_own(func, args, kwargs or {}, lowering.targets[0]) - 1
            )
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self._captured and func._schema.name in COPIES:
            source = args[1] if func._schema.name == 'aten::copy_' else args[0]
            if source.device != out.device:
                self._copies[func._schema.name, f'{source.device} to {out.device}'] += 1
        return out

    def take(self, where: str) -> None:
        """Record the launches since the last call under ``where``.

        Raises:
            ValueError: the step is to be captured, and these operators would prevent it.
        """
        prevents = self.syncs + self._copies + Counter(dict(self.constants))
        if self._captured and prevents:
            raise ValueError(
                f'{where}: a captured step cannot exchange values with the host: {dict(prevents)}'
            )
        self.taken[where] = self.total()
        self.launches = Counter()
