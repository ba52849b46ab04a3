"""Autograd's engine in Python, for fake CUDA tensors where there is no CUDA device.

AOTAutograd needs the engine to trace a backward pass. That of torch 2.11 asks the driver for the
stream of each CUDA tensor, fake ones included, and fails where there is no driver.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.autograd.graph import Node, get_gradient_edge


@contextmanager
def in_python() -> Iterator[None]:
    """Let ``torch.autograd.grad`` run in Python.

    Functions of which the backward pass gets None for a missing gradient must be called in it too.
    """
    with (
        patch.object(torch.autograd, '_engine_run_backward', gradients),
        patch.object(FunctionCtx, 'set_materialize_grads', _set_materialize_grads),
        # torch's checkpoints compute again once for each number
        patch.object(torch._C, '_current_graph_task_id', lambda: 0),
    ):
        yield


def _set_materialize_grads(ctx: Any, value: bool) -> None:
    ctx.materialize_grads = ctx.takes_zeros = value  # torch's own attribute cannot be read


_running: list[tuple[Node, ...]] = []


def running() -> tuple[Node, ...]:
    """Return the node whose gradients are being computed.

    While a gradient is added to others, these are the node that it comes from and the one that it
    goes to, unless that is a parameter.
    """
    return _running[-1] if _running else ()


@contextmanager
def _noted(*nodes: Node) -> Iterator[None]:
    _running.append(nodes)
    try:
        yield
    finally:
        _running.pop()


def gradients(
    outputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor | None],
    keep_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor] = (),
    allow_unreachable: bool = False,
    accumulate_grad: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``inputs``; the arguments are those of torch's own engine.

    Hooks on tensors and nodes are not called.
    """
    if not inputs or accumulate_grad:
        raise NotImplementedError('gradients are returned for inputs only, not accumulated')
    edges = [get_gradient_edge(tensor) for tensor in inputs]
    found: dict[tuple[Node, int], Tensor] = {}
    wanted = {(edge.node, edge.output_nr) for edge in edges}
    roots = [get_gradient_edge(tensor) for tensor in outputs]
    needed = _needed({root.node for root in roots}, {edge.node for edge in edges})
    waiting = _incoming(needed)
    arrived: dict[Node, dict[int, Tensor]] = defaultdict(dict)
    ready = _Queue()
    for root, tensor, grad in zip(roots, outputs, grad_outputs):
        if root.node in needed:
            _add(
                arrived[root.node],
                root.output_nr,
                torch.ones_like(tensor) if grad is None else grad,
            )
    for node in {root.node: None for root in roots}:
        if node in needed and not waiting[node]:
            ready.push(node)
    with torch.set_grad_enabled(create_graph):
        while ready:
            node = ready.pop()
            grads = arrived.pop(node, {})
            found |= {(node, i): g for i, g in grads.items() if (node, i) in wanted}
            leads_on = any(following in needed for following, _ in node.next_functions)
            with _noted(node):
                results = _apply(node, grads) if grads and leads_on else itertools.repeat(None)
            for (following, place), grad in zip(node.next_functions, results):
                if following not in needed:
                    continue
                if grad is not None:
                    with _noted(node):
                        grad = _fitted(grad, following, place)
                    with _noted(node, following) if following.next_functions else _noted(node):
                        _add(arrived[following], place, grad)
                waiting[following] -= 1
                if not waiting[following]:
                    ready.push(following)
    return tuple(found.get((edge.node, edge.output_nr)) for edge in edges)


class _Queue:
    """Priority queue of nodes; the most recently made one comes first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Node]] = []
        self._count = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._heap)

    def push(self, node: Node) -> None:
        heapq.heappush(self._heap, (-node._sequence_nr(), next(self._count), node))

    def pop(self) -> Node:
        return heapq.heappop(self._heap)[-1]


def _needed(roots: set[Node], ends: set[Node]) -> set[Node]:
    """Return the nodes on the paths from ``roots`` to ``ends``."""
    leads: dict[Node, bool] = {}
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        following = [f for f, _ in node.next_functions if f is not None]
        if done:
            leads[node] = node in ends or any(leads[f] for f in following)
        elif node not in leads:
            leads[node] = False
            stack.append((node, True))
            stack += [(f, False) for f in following if f not in leads]
    return {node for node, needed in leads.items() if needed}


def _incoming(nodes: set[Node]) -> dict[Node, int]:
    counts = dict.fromkeys(nodes, 0)
    for node in nodes:
        for following, _ in node.next_functions:
            if following in counts:
                counts[following] += 1
    return counts


def _apply(node: Node, grads: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    metas = node._input_metadata
    if isinstance(node, BackwardCFunction):
        given: list[Tensor | None] = [grads.get(i) for i in range(len(metas))]
        if getattr(node, 'takes_zeros', True):
            some = next(iter(grads.values()))
            given = [
                some.new_zeros(meta.shape, dtype=meta.dtype) if grad is None else grad
                for grad, meta in zip(given, metas)
            ]
        results = node.apply(*given)
        if isinstance(results, tuple):  # one for each argument, whether a tensor or not
            wanted = iter([r for r, needs in zip(results, node.needs_input_grad) if needs])
            results = tuple(
                None if following is None else next(wanted) for following, _ in node.next_functions
            )
    else:
        results = node(*(grads.get(i) for i in range(len(metas))))
    return results if isinstance(results, tuple) else (results,)


def _fitted(grad: Tensor, node: Node, place: int) -> Tensor:
    """Return ``grad`` in the shape and dtype of its tensor."""
    meta: Any = node._input_metadata[place]
    if tuple(grad.shape) != tuple(meta.shape):
        grad = grad.sum_to_size(meta.shape)
    return grad if grad.dtype == meta.dtype else grad.to(meta.dtype)


def _add(grads: dict[int, Tensor], place: int, grad: Tensor) -> None:
    grads[place] = grads[place] + grad if place in grads else grad
