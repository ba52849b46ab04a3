"""Column sums of a backward graph, computed by one operator instead of many reductions."""

from functools import partial

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._inductor.compile_fx import compile_fx

from mtp.engine import joined_sums
from mtp.engine.joined_sums import FEWEST_ROWS, JoinedSums
from mtp.ops import dispatch

pytest.importorskip('triton')


class Block(nn.Module):
    """A residual block whose first norm feeds two products, as that of window attention."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in [*2 * [(4, 4)], (4, 6), (6, 4)])

    def forward(self, x):
        first = self.norms[0](x)
        x = x + self.layers[0](first) * self.layers[1](first)
        hidden = self.layers[2](self.norms[1](x))
        return x + self.layers[3](nn.functional.gelu(hidden))


class Channels(nn.Module):
    """Biases of maps with channels last and first, and two sums of what no product reads."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift, self.bias = (nn.Parameter(torch.ones(4)) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(4, 4, bias) for bias in (True, False))

    def forward(self, x):
        x = (x.sin() * self.scale + self.shift).cos()
        x = self.layers[0](x).mT + self.bias[:, None]
        return self.layers[1](x.mT)


class Levels(nn.Module):
    """Biases of two maps, one of which is half the size of the other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        return self.layers[0](x) + self.layers[1](x[:1])


class InstanceNorm(nn.Module):
    """A norm with statistics of each channel, not of each row."""

    def __init__(self):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(4, 1)), nn.Linear(4, 4)

    def forward(self, x):
        x = x.mT
        var, mean = torch.var_mean(x, 2, keepdim=True, correction=0)
        return self.layer(((x - mean) * (var + 1e-5).rsqrt() * self.scale).mT)


@pytest.fixture
def _kernels(monkeypatch):
    monkeypatch.setattr(dispatch, 'SETTING', 'triton')  # in Triton's interpreter


def gradients(function, part, rows):
    """Gradients of a part's parameters and of its input."""
    generator = torch.Generator().manual_seed(0)
    x, cotangent = torch.randn(2, 2, rows // 2, 4, generator=generator)
    out = function(x.requires_grad_())
    return torch.autograd.grad(out, [*part.parameters(), x], cotangent.view(out.shape))


def joined(part, rows=FEWEST_ROWS, **options):
    """Gradients of a part whose backward graph went through the pass, and the graph."""
    graphs = []

    def lower(graph, inputs, is_backward=False, **settings):
        if is_backward:
            JoinedSums()(graph.graph)
            graph.recompile()
            graphs.append(graph.graph)
        return make_boxed_func(graph.forward)

    backend = partial(compile_fx, inner_compile=lower)
    torch._dynamo.reset()
    compiled = torch.compile(part, backend=backend, fullgraph=True, **options)
    return gradients(compiled, part, rows), *graphs


def calls(graph):
    return graph.find_nodes(op='call_function', target=torch.ops.mtp.column_sums.default)


def sums_over_rows(graph):
    nodes = graph.find_nodes(op='call_function', target=torch.ops.aten.sum.dim_IntList)
    return [node for node in nodes if node.meta['val'].numel() < 10]


def assert_near(found, expected, tolerance):
    for result, wanted in zip(found, expected, strict=True):
        largest = float(wanted.abs().max())
        torch.testing.assert_close(result, wanted, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize(('amp', 'tolerance'), [(False, 1e-5), (True, 0.02)])
def test_all_sums_of_a_block_are_one_call(_kernels, amp, tolerance):
    part = Block()
    with torch.autocast('cpu', torch.bfloat16, amp):
        found, graph = joined(part)
        expected = gradients(part, part, FEWEST_ROWS)
    (call,) = calls(graph)
    # gradients, of which one is the sum of two; two norms, the first one's input in memory
    assert list(map(len, call.args)) == [6, 1, 2, 1, 1, 6]
    assert not sums_over_rows(graph)
    assert_near(found, expected, tolerance)


def test_sums_in_any_layout_and_none_that_inductor_may_fuse(_kernels):
    part = Channels()
    found, graph = joined(part)
    (call,) = calls(graph)
    assert list(map(len, call.args)) == [2, 0, 0, 0, 0, 2]
    assert len(sums_over_rows(graph)) == 2  # scale and shift
    assert_near(found, gradients(part, part, FEWEST_ROWS), 1e-5)


def test_sums_over_different_numbers_of_rows_are_one_call(_kernels):
    part = Levels()
    found, graph = joined(part, 2 * FEWEST_ROWS)
    (call,) = calls(graph)
    assert {matrix.args[1][0] for matrix in call.args[0]} == {FEWEST_ROWS, 2 * FEWEST_ROWS}
    assert_near(found, gradients(part, part, 2 * FEWEST_ROWS), 1e-5)


def test_a_norm_of_columns_is_no_norm_of_rows(_kernels):
    part = InstanceNorm()
    found, _ = joined(part)
    assert_near(found, gradients(part, part, FEWEST_ROWS), 1e-5)


def test_norms_that_inductor_reduces_both_ways_at_once_are_left_alone(_kernels, monkeypatch):
    monkeypatch.setattr(joined_sums, 'MIXED_ROWS', FEWEST_ROWS)
    monkeypatch.setattr(joined_sums, 'MIXED_ELEMENTS', 4 * FEWEST_ROWS)
    _, graph = joined(Block())
    (call,) = calls(graph)
    assert list(map(len, call.args)) == [4, 0, 0, 0, 0, 4]
    assert len(sums_over_rows(graph)) == 4


@pytest.mark.parametrize(
    ('rows', 'options'), [(FEWEST_ROWS - 2, {}), (FEWEST_ROWS, {'dynamic': True})]
)
def test_few_rows_and_unknown_sizes_are_left_alone(_kernels, rows, options):
    _, graph = joined(Block(), rows, **options)
    assert not calls(graph) and len(sums_over_rows(graph)) == 8


def test_without_kernels_a_graph_stays_as_it_is():
    _, graph = joined(Block())
    assert not calls(graph) and len(sums_over_rows(graph)) == 8
