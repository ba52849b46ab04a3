"""A pass of inductor that computes the column sums of a graph in two launches.

Gradients of biases, and of weights and biases of layer norms, are sums over the rows of matrices.
Inductor launches two kernels for each, three for the two of a norm, and nothing in the backward
pass waits for them. The pass replaces those of a graph by one call of ``mtp::column_sums`` at its
end, for which their operands stay in memory.

Only sums of gradients in memory are replaced: those that a product or another operator outside of
inductor's kernels reads or makes, or that the graph takes or returns. Where a norm's input is not
in memory, the normalised one is written by the kernel that computes it.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._ops import OpOverload
from torch.fx import Graph, Node

from mtp.ops import dispatch

aten = torch.ops.aten
CAST = torch.ops.prims.convert_element_type.default
VIEWS = {
    aten.permute.default,
    aten.reshape.default,
    aten.squeeze.dim,
    aten.view.default,
}
PRODUCTS = {
    aten.addmm.default,
    aten.bmm.default,
    aten.convolution_backward.default,
    aten.mm.default,
}
# Inductor may sum fewer rows in the kernel that makes them.
FEWEST_ROWS = 1024
# The size from which inductor computes a norm's sums in the kernel that makes the gradient of its
# input: MixOrderReduction.can_fuse in torch/_inductor/scheduler.py of torch 2.11.
MIXED_ROWS, MIXED_ELEMENTS = 4096, 5 << 20


@dataclass(frozen=True)
class Operand:
    """A gradient whose sums over the rows are replaced.

    Attributes:
        terms: the gradient, or its two addends.
        order: dimensions of the terms, the summed ones before the columns.
        norm: what the gradient is multiplied with in a second sum: the normalised input of a layer
            norm, or its input, mean and 1 / deviation; empty for a linear layer.
        sums: results that leave the graph: the sum or None, and a norm's second sum.
    """

    terms: tuple[Node, ...]
    order: tuple[int, ...]
    norm: tuple[Node, ...]
    sums: tuple[Node | None, ...]

    @property
    def columns(self) -> int:
        """Number of columns."""
        return _value(self.terms[0]).shape[self.order[-1]]

    @property
    def rows(self) -> int:
        """Number of rows."""
        shape = _value(self.terms[0]).shape
        return math.prod(shape[dim] for dim in self.order[:-1])

    @property
    def rounded(self) -> bool:
        """Whether the sums have the gradient's dtype, instead of float32."""
        return all(_value(each).dtype == _value(self.terms[0]).dtype for each in self.sums if each)

    def is_taken(self) -> bool:
        """Return whether the operator computes the sums, and inductor not in another kernel."""
        dtypes = {_value(each).dtype for each in self.sums if each}
        mixed = (
            self.rows >= max(MIXED_ROWS, 2 * self.columns)
            and self.rows * self.columns >= MIXED_ELEMENTS
        )
        return (
            self.rows >= FEWEST_ROWS
            and not (self.norm and mixed)
            and dtypes in ({torch.float32}, {_value(self.terms[0]).dtype})
            and dispatch.use_triton(*map(_value, self.terms + self.norm))
        )


class JoinedSums(CustomGraphPass):
    """The pass, for ``torch._inductor.config.post_grad_custom_post_pass``."""

    def __call__(self, graph: Graph) -> None:
        """Replace the column sums of a graph by a call."""
        operands = [operand for operand in _operands(graph) if operand.is_taken()]
        # two launches of a single sum would become two
        if len(operands) > 1 or any(operand.norm for operand in operands):
            _join(graph, operands)

    def uuid(self) -> bytes:
        """Return what the cache of compiled graphs knows the pass by."""
        return get_hash_for_files((__file__,), dispatch.SETTING)


def _join(graph: Graph, operands: list[Operand]) -> None:
    """Replace the sums of operands."""
    operands.sort(key=lambda each: (len(each.terms), len(each.norm)), reverse=True)
    with graph.inserting_before(graph.output_node()):

        def matrix(node: Node, operand: Operand) -> Node:
            rows_first = graph.call_function(aten.permute.default, (node, operand.order))
            shape = [operand.rows, operand.columns]
            return graph.call_function(aten.reshape.default, (rows_first, shape))

        norms = [each for each in operands if each.norm]
        numbers = [
            [
                graph.call_function(aten.reshape.default, (number, [-1]))
                for each in norms
                for number in each.norm[i : i + 1]
            ]
            for i in (1, 2)
        ]
        call = graph.call_function(
            torch.ops.mtp.column_sums.default,
            (
                [matrix(each.terms[0], each) for each in operands],
                [matrix(each.terms[1], each) for each in operands if len(each.terms) == 2],
                [matrix(each.norm[0], each) for each in norms],
                *numbers,
                [each.rounded for each in operands],
            ),
        )
        replaced = [each.sums[0] for each in operands] + [each.sums[1] for each in norms]
        for i, node in enumerate(replaced):
            if node is not None:
                result = graph.call_function(operator.getitem, (call, i))
                shape = list(_value(node).shape)
                node.replace_all_uses_with(
                    graph.call_function(aten.reshape.default, (result, shape))
                )
    graph.eliminate_dead_code()


def _operands(graph: Graph) -> Iterator[Operand]:
    """Yield the operands of a graph's column sums."""
    plain: dict[tuple[Node, tuple[int, ...]], Node] = {}
    products = []
    for node in graph.find_nodes(op='call_function', target=aten.sum.dim_IntList):
        summed, order, result = _source(node), _order(node), _returned(node)
        if order is None or result is None:
            continue
        if factors := _factors(summed):
            products.append((factors[0], order, factors[1:], result))
        else:
            plain[summed, order] = result
    for grad, order, norm, result in products:
        total = plain.pop((grad, order), None)
        terms = _terms(grad, order)
        # statistics are those of rows; addends are those of norms with statistics, which come first
        by_rows = len(norm) == 1 or order == tuple(range(len(order)))
        if terms and len(terms) <= len(norm) and by_rows and _is_dense(norm[0], order):
            yield Operand(terms, order, norm, (total, result))
    for (grad, order), total in plain.items():
        if len(terms := _terms(grad, order)) == 1:
            yield Operand(terms, order, (), (total,))


def _order(node: Node) -> tuple[int, ...] | None:
    """Return the dimensions that a sum adds up, and then the one that it keeps.

    None if it keeps several, or if sizes are symbolic.
    """
    shape = _value(_source(node)).shape
    summed = {dim % len(shape) for dim in cast(list[int], node.args[1])}
    kept = set(range(len(shape))) - summed
    if len(kept) != 1 or not all(isinstance(size, int) for size in shape):
        return None
    return (*sorted(summed), *kept)


def _returned(node: Node) -> Node | None:
    """Return what leaves the graph of a sum, after views and casts, or None."""
    while len(node.users) == 1:
        (user,) = node.users
        if user.op == 'output':
            return node
        if user.target not in VIEWS | {CAST}:
            return None
        node = user
    return None


def _factors(node: Node) -> tuple[Node, ...]:
    """Return gradient and norm of a gradient times a normalised input; empty for other nodes.

    The norm is input, mean and 1 / deviation if the input is in memory, else the normalised input.
    """
    pair = _pair(node, aten.mul.Tensor)
    for grad, normalised in (pair, pair[::-1]) if pair else ():
        scaled = _pair(normalised, aten.mul.Tensor)
        if scaled and (centred := _pair(scaled[0], aten.sub.Tensor)):
            x, mean, rstd = _before_cast(centred[0]), centred[1], scaled[1]
            shape = _value(grad).shape
            if _value(x).shape == shape and all(
                _value(each).shape == (*shape[:-1], 1) for each in (mean, rstd)
            ):
                return (grad, x, mean, rstd) if _is_in_memory(x) else (grad, normalised)
    return ()


def _terms(node: Node, order: tuple[int, ...]) -> tuple[Node, ...]:
    """Return a gradient, or its two addends, before casts; empty where they are not in memory."""
    for nodes in ((node,), _pair(node, aten.add.Tensor)):
        terms = tuple(map(_before_cast, nodes))
        if terms and all(
            _value(each).shape == _value(node).shape
            and _is_dense(each, order)
            and _is_in_memory(each)
            for each in terms
        ):
            # sums may be rounded to the first one's dtype
            return tuple(sorted(terms, key=lambda each: _value(each).itemsize))
    return ()


def _pair(node: Node, target: OpOverload) -> tuple[Node, ...]:
    """Return the arguments of a node with this target, if both are nodes."""
    nodes = tuple(each for each in node.args if isinstance(each, Node))
    return nodes if node.target is target and len(nodes) == 2 and not node.kwargs else ()


def _before_cast(node: Node) -> Node:
    return _source(node) if node.target is CAST else node


def _is_dense(node: Node, order: tuple[int, ...]) -> bool:
    """Return whether rows and columns of a node are a contiguous matrix."""
    return _value(node).permute(order).is_contiguous()


def _is_in_memory(node: Node) -> bool:
    """Return whether a node is in memory, whatever inductor fuses."""
    while node.target in VIEWS:
        node = _source(node)
    return node.op == 'placeholder' or any(map(_is_outside, (node, *_readers(node))))


def _readers(node: Node) -> Iterator[Node]:
    """Yield the users of a node and of its views."""
    for user in node.users:
        yield from _readers(user) if user.target in VIEWS else (user,)


def _is_outside(node: Node) -> bool:
    """Return whether a node, or what it is a result of, is no operation that inductor fuses."""
    if node.target is operator.getitem:
        node = _source(node)
    return (
        node.op == 'output'
        or node.target in PRODUCTS
        or getattr(node.target, 'namespace', '') == 'mtp'
    )


def _source(node: Node) -> Node:
    return cast(Node, node.args[0])


def _value(node: Node) -> Tensor:
    return node.meta['val']
