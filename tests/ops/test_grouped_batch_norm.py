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
    )


def one_by_one(x, weight, bias, mean, var, sizes, momentum, eps):
    return torch.cat(
        [
            F.batch_norm(part, mean, var, weight, bias, True, momentum, eps)
            for part in x.split(sizes)
        ]
    )


def results(normalise, inputs, **settings):
    """Output, gradients and running statistics."""
    out = normalise(*inputs, SIZES, 0.1, 1e-5, **settings)
    (out.float() ** 3).mean().backward()
    return [out.detach(), *(t.grad for t in inputs[:3]), *inputs[3:]]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_equals_batch_norm_of_each_group_bit_for_bit(dtype):
    found = results(grouped_batch_norm, make_inputs(dtype=dtype))
    assert all(map(torch.equal, found, results(one_by_one, make_inputs(dtype=dtype))))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_over_all_processes_and_in_any_layout(alone, layout, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    expected = results(one_by_one, make_inputs(layout, dtype))
    for synced in (False, True):
        found = results(grouped_batch_norm, make_inputs(layout, dtype), synced=synced)
        assert found[0].stride() == expected[0].stride()
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_compiles_for_any_layout(alone, layout):
    for synced in (False, True):
        torch.library.opcheck(
            torch.ops.mtp.synced_batch_norm if synced else torch.ops.mtp.local_batch_norm,
            (*make_inputs(layout), SIZES, 0.1, 1e-5),
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_kernels_of_a_gpu_equal_torch(layout, dtype):
    x, weight, bias, _, _ = (t.detach() for t in make_inputs(layout, dtype, 'cuda'))
    grad, kernels, twins = torch.randn_like(x), module._kernels(x), module._kernels(x.cpu())
    mean, invstd = kernels[0](x, 1e-5)
    count = torch.tensor([x.numel() // len(weight)], dtype=torch.int32, device='cuda')
    calls = (
        (x, 1e-5),
        (x, weight, bias, mean, invstd, 1e-5),
        (grad, x, mean, invstd, weight, True, True, True),
        (grad, x, mean, invstd, weight, weight, bias, count),
    )
    for kernel, twin, arguments in zip(kernels, twins, calls):
        out = dict(out=torch.empty_like(x)) if kernel is kernels[1] else {}
        torch.testing.assert_close(
            kernel(*arguments, **out), twin(*arguments, **out), rtol=2e-2, atol=2e-2
        )


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
    monkeypatch.setattr(module, '_all_reduce', lambda t: seen.append(t.shape[1] // 2))
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
