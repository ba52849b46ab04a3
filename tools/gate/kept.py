"""Memory that a training step keeps for its backward pass, of compiled parts in compiled form."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import size_hint


@dataclass(frozen=True)
class HandedOn:
    """What a compiled forward pass hands to its backward pass.

    Attributes:
        nbytes: bytes of tensors that it makes for this purpose.
        inputs: indices of its inputs that it hands on.
        outputs: shapes and types of its results that it hands on.
    """

    nbytes: int
    inputs: tuple[int, ...]
    outputs: tuple[tuple[torch.Size, torch.dtype], ...]


def handed_on(graph: fx.GraphModule, number: int) -> HandedOn:
    """Return what a forward pass of AOTAutograd hands to its backward pass.

    Args:
        graph: the forward pass.
        number: number of its outputs that are results; those after them are for the backward pass.
    """
    places = {
        _storage(node.meta['val']): index
        for index, node in enumerate(graph.graph.find_nodes(op='placeholder'))
        if isinstance(node.meta.get('val'), Tensor)
    }
    (outputs,) = graph.graph.output_node().args
    results = {_storage(value): value for value in _values(outputs[:number])}
    own: dict[int, int] = {}
    inputs, shared = set(), {}
    for value in _values(outputs[number:]):
        storage = _storage(value)
        if storage in places:
            inputs.add(places[storage])
        elif storage in results:
            shared[storage] = (results[storage].shape, results[storage].dtype)
        else:
            # of a graph for several sizes, at that it was traced with
            own[storage] = size_hint(value.untyped_storage().nbytes())
    return HandedOn(sum(own.values()), tuple(sorted(inputs)), tuple(shared.values()))


def add(kept: Any, part: HandedOn, inputs: Sequence[Any], results: Any) -> None:
    """Record what a compiled part keeps when it is called.

    Args:
        kept: recorder, a ``training.measure.Kept``.
        part: what its forward pass hands on.
        inputs: inputs of its graph.
        results: what it returns.
    """
    kept.unseen += part.nbytes
    for index in part.inputs:
        kept.keep(inputs[index])
    tensors = [value for value in pytree.tree_leaves(results) if isinstance(value, Tensor)]
    for shape, dtype in part.outputs:
        place = next(
            i for i, each in enumerate(tensors) if (each.shape, each.dtype) == (shape, dtype)
        )
        kept.keep(tensors.pop(place))


def paused() -> AbstractContextManager:
    """Return a context in which nothing is recorded."""
    return torch.autograd.graph.saved_tensors_hooks(_same, _same)


def _values(nodes: Iterable[Any]) -> list[Tensor]:
    values = [node.meta['val'] for node in nodes if isinstance(node, fx.Node)]
    return [value for value in values if isinstance(value, Tensor)]


def _storage(value: Tensor) -> int:
    return value.untyped_storage()._cdata


def _same(tensor: Tensor) -> Tensor:
    return tensor
