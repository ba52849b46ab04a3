"""Batch normalisation over groups of images, within a process and over all processes."""

import importlib

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func
from torch._higher_order_ops.effects import with_effects

from mtp import compat
from mtp.engine.compiled_part import PartKind
from mtp.ops import grouped_batch_norm

module = importlib.import_module('mtp.ops.grouped_batch_norm')  # the function has its name
SIZES = [1, 3, 2]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group(
        'gloo', store=dist.FileStore(str(tmp_path / 'store'), 1), rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def make_inputs(layout=torch.contiguous_format, dtype=torch.float32, device='cpu', channels=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, channels, 5, 3, generator=generator) * 3
    x += torch.arange(6).view(6, 1, 1, 1) * 20  # a large mean shows cancellation
    weight, bias, mean, var = torch.rand(4, channels, generator=generator) + 0.5
    x = x.to(device, dtype).contiguous(memory_format=layout).requires_grad_()
    return (
        x,
        *(t.to(device, copy=True).requires_grad_() for t in (weight, bias)),
        *(t.to(device, copy=True) for t in (mean, var)),
        torch.zeros((), dtype=torch.int64, device=device),
    )


def one_by_one(x, weight, bias, mean, var, number, sizes, momentum, eps, relu=False):
    number += len(sizes)
    out = torch.cat(
        [
            F.batch_norm(part, mean, var, weight, bias, True, momentum, eps)
            for part in x.split(sizes)
        ]
    )
    return out.relu() if relu else out


def results(normalise, inputs, **settings):
    """Output, gradients and running statistics."""
    out = normalise(*inputs, SIZES, 0.1, 1e-5, **settings)
    (out.float() ** 3).mean().backward()
    return [out.detach(), *(t.grad for t in inputs[:3]), *inputs[3:]]


@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_equals_batch_norm_of_each_group_bit_for_bit(dtype, relu):
    found = results(grouped_batch_norm, make_inputs(dtype=dtype), relu=relu)
    expected = results(one_by_one, make_inputs(dtype=dtype), relu=relu)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_over_all_processes_and_in_any_layout(alone, layout, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for relu in (False, True):
        expected = results(one_by_one, make_inputs(layout, dtype), relu=relu)
        for synced in (False, True):
            inputs = make_inputs(layout, dtype)
            found = results(grouped_batch_norm, inputs, synced=synced, relu=relu)
            assert found[0].stride() == expected[0].stride()
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('relu', [False, True])
def test_gradients_over_all_processes_in_float64(alone, relu):
    x, weight, bias, *running = (
        t.detach().double() if t.is_floating_point() else t for t in make_inputs(channels=2)
    )

    def normalise(x, weight, bias):
        state = (t.clone() for t in running)
        return grouped_batch_norm(x, weight, bias, *state, SIZES, 0.1, 1e-5, True, relu)

    assert torch.autograd.gradcheck(normalise, [t.requires_grad_() for t in (x, weight, bias)])


@pytest.mark.parametrize('layout', LAYOUTS)
def test_operators_are_registered_rightly(alone, layout):
    x, weight, bias, *running = make_inputs(layout)
    ops = torch.ops.mtp
    sums = ops.batch_norm_sums(x.detach(), SIZES)
    statistics = ops.batch_norm_statistics(*running, sums, 0.1, 1e-5)
    of_maps = x, weight, bias, *statistics[:2]
    plains = plain, *_ = [t.detach() for t in (x, weight, bias)]
    backward = torch.randn_like(plain), *plains, *statistics[:2]
    totals, *_ = ops.batch_normalise_backward_sums(*backward, SIZES, True)
    for operator, arguments in (
        (ops.batch_norm_sums, (plain, SIZES)),
        (ops.batch_norm_statistics, (*running, sums, 0.1, 1e-5)),
        (ops.batch_normalise, (*of_maps, statistics[2], SIZES, True, True)),
        (ops.batch_normalise_backward_sums, (*backward, SIZES, True)),
        (ops.batch_normalise_backward, (*backward, statistics[2], totals, SIZES, True)),
        (ops.batch_norm_of_few, (*plains, *running, SIZES, 0.1, 1e-5, True)),
        (ops.batch_norm_of_few_backward, (*backward, SIZES, True)),
        (ops.sum_over_processes, (sums,)),
    ):
        torch.library.opcheck(
            operator,
            arguments,
            test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
        )


def test_maps_that_are_views(alone):
    for synced in (False, True):
        x, *others = make_inputs()
        wide = F.pad(x.detach(), (1, 2)).requires_grad_()
        out = grouped_batch_norm(wide[..., 1:4], *others, SIZES, 0.1, 1e-5, synced)
        out.sum().backward()  # a gradient without strides
        torch.testing.assert_close(
            out, one_by_one(*make_inputs(), SIZES, 0.1, 1e-5), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(wide.grad, torch.zeros_like(wide), rtol=0, atol=1e-4)


def test_sizes_of_another_batch_are_refused():
    with pytest.raises(ValueError, match='add up to the 6 images'):
        grouped_batch_norm(*make_inputs(), [1, 2], 0.1, 1e-5)


def layers(x, weights):
    """Layers that do not need each other's results, told apart by their number of channels."""
    outs = []
    for weight in weights:
        channels = len(weight)
        outs.append(
            grouped_batch_norm(
                x[:, :channels].relu(),
                weight,
                weight,
                torch.zeros(channels),
                torch.ones(channels),
                torch.tensor(0),
                SIZES,
                0.1,
                1e-5,
                synced=True,
            )
        )
    return sum(out.sin().sum() for out in reversed(outs))


def collectives(monkeypatch, run) -> list[int]:
    """Numbers of channels, in the order of the collectives of a step."""
    seen = []
    monkeypatch.setattr(module, '_all_reduce', lambda t: seen.append(t.shape[2] // 2))
    weights = [torch.rand(channels).requires_grad_() for channels in (3, 5, 2, 4)]
    run(torch.randn(6, 5, 4, 4).requires_grad_(), weights).backward()
    return seen


def test_compiled_layers_keep_the_order_of_their_collectives(alone, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        def keep(graph, _):
            graphs.append([node for node in graph.graph.nodes if node.target is with_effects])
            return make_boxed_func(graph.forward)

        return aot_autograd(fw_compiler=keep)(graph, inputs)

    order = [3, 5, 2, 4, 4, 2, 5, 3]
    assert collectives(monkeypatch, layers) == order
    compiled = torch.compile(layers, backend=backend, fullgraph=True)
    assert collectives(monkeypatch, compiled) == order
    for nodes in graphs:  # forward and backward
        assert len(nodes) == 4
        for before, after in zip(nodes, nodes[1:]):
            assert after.args[0].args == (before, 0), 'each depends on the one before'
    assert len(graphs) == 2


@pytest.mark.slow
def test_inductor_keeps_the_order_and_its_cache(alone, monkeypatch):
    compat.support_ordered_effects()
    torch._dynamo.reset()
    counters.clear()
    order = collectives(monkeypatch, layers)
    compiled = torch.compile(layers, fullgraph=True, backend=PartKind('layers', 'inductor').lower)
    assert collectives(monkeypatch, compiled) == order
    assert not counters['inductor']['fxgraph_cache_bypass']
