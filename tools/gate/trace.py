"""Trace the parts of a model that training compiles, while a step runs uncompiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.autograd.graph import Node
from torch.utils._python_dispatch import _get_current_dispatch_mode, _pop_mode_temporarily

from mtp.engine.compiled_part import compile_method
from mtp.engine.hooks import compilation
from mtp.fallback import reason_in_a_line
from mtp.ops import dispatch
from tools.gate import backward, kept
from tools.gate.lower import Lowering, processor_seconds

LEAVES = 2**63  # sequence numbers of nodes that accumulate gradients are from here on


def _nothing_against(*_: Any) -> None:
    """Let dispatch choose the kernel of each operator, not its twin."""


class _Traced(Exception):
    """Raised to end a compiled part before it runs: its code is for a GPU."""


class Tracer:
    """Tracer that compiles the parts of a model for GPUs and runs them uncompiled.

    Attributes:
        rows: rows of all traced graphs, with part, seconds of Dynamo and of AOTAutograd, keys of
            the lowered graphs, and ``calls``, the number of times that a step runs it, of which
            ``again`` are in the backward pass, whose gradients are those of the first call.
        breaks: part -> reason why it is not one graph.
        title: title of the part that is being traced.
        nodes: backward nodes of the parts, as they run uncompiled.
        kept: recorder of what the step keeps for its backward pass, a ``training.measure.Kept``;
            None for none.
    """

    def __init__(self, lowering: Lowering, only: set[str] = frozenset()) -> None:
        self.lowering, self.only = lowering, only
        self.rows: list[dict[str, Any]] = []
        self.breaks: dict[str, str] = {}
        self.title = ''
        self.nodes: set[Node] = set()
        self.kept: Any = None
        self._called: tuple[kept.HandedOn, tuple] | None = (
            None  # part that was called last, its inputs
        )

    def install(self, model: nn.Module) -> None:
        """Compile the parts of a model in place."""
        compilation.set_up_compiler()
        for module, method in compilation.parts(model):
            title = f'{type(module).__name__}.{method}'
            if not self.only or title in self.only:
                setattr(module, method, self._part(title, getattr(module, method)))

    def begin_step(self) -> None:
        """Count calls from here on."""
        self.nodes.clear()
        for row in self.rows:
            row['calls'] = row['again'] = 0

    def _part(self, title: str, eager: Callable) -> Callable:
        # a single backend: Dynamo shares code among the blocks of a backbone, as in training
        compiled = compile_method(eager, self._backend)

        def call(*args: Any, **kwargs: Any) -> Any:
            with _uncounted():
                self._trace(title, compiled, args, kwargs)
                first = torch.autograd._get_sequence_nr()
                with kept.paused() if self.kept else nullcontext():
                    results = eager(*args, **kwargs)
            if self.kept and self._called:
                kept.add(self.kept, *self._called, results)
            self.nodes.update(_nodes_since(first, results))
            return results

        return call

    def _trace(self, title: str, compiled: Callable, args: tuple, kwargs: dict) -> None:
        begun, number, self.title = processor_seconds(), len(self.rows), title
        self._called = None
        try:
            with patch.object(dispatch, '_reason_against', _nothing_against):
                compiled(*args, **kwargs)
            self.breaks[title] = 'runs uncompiled'
        except _Traced:
            pass
        except Exception as error:  # the gate reports any error of Dynamo
            self.breaks[title] = reason_in_a_line(getattr(error, 'inner_exception', error))
        for row in self.rows[number:]:
            row['dynamo'] = processor_seconds() - begun - row.pop('backend')

    def _backend(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable:
        begun = processor_seconds()
        row = dict(part=self.title, calls=0, again=0)
        row['keys'], row['aot'] = self.lowering(graph, inputs)
        row['backend'] = processor_seconds() - begun
        self.rows.append(row)
        part = self.lowering.handed_on

        def run(*inputs: Any) -> None:
            row['calls'] += 1
            row['again'] += bool(backward.running())
            self._called = part and (part, inputs)
            raise _Traced

        return run


@contextmanager
def _uncounted() -> Iterator[None]:
    """Leave a mode that counts operators, under which Dynamo compiles nothing."""
    mode = _get_current_dispatch_mode()
    counts = mode is not None and not mode.is_infra_mode()
    with _pop_mode_temporarily() if counts else nullcontext():
        yield


def _nodes_since(first: int, results: Any) -> set[Node]:
    """Return the autograd nodes behind ``results``, from the sequence number ``first`` on."""
    stack = [t.grad_fn for t in pytree.tree_leaves(results) if isinstance(t, torch.Tensor)]
    found: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is None or node in found or not first <= node._sequence_nr() < LEAVES:
            continue
        found.add(node)
        stack += [following for following, _ in node.next_functions]
    return found
