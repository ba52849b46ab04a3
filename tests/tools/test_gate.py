"""The quick part of the gate: what once did not compile on a GPU, compiled without one."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch._inductor.compile_fx import compile_fx

from mtp.engine.compiled_part import cheap_recomputation
from mtp.models.recomputation import recomputed
from tests.tools.test_train import REPO
from tools.gate import backward, kept
from tools.gate.counter import LaunchCounter
from tools.gate.lower import calls_of
from tools.gate.pretrain import Kept

pytest.importorskip('triton')


@pytest.mark.slow
def test_semantic_loss_and_targets_compile_for_a_gpu(tmp_path):
    """The loss beside its accuracy at 19 classes, and the draws from 64-bit hashes; 30 s."""
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    result = subprocess.run(
        [
            sys.executable,
            '-m',
            'tools.gate',
            'quick',
            '--capabilities',
            '90',
            '--others',
            '--processes',
            '1',
            '--out',
            tmp_path,
        ],
        cwd=REPO,
        env=environment | {'MTP_STRICT': '1'},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for part in ('SemanticTask.terms', 'MultiDatasetRPNHead.targets'):
        assert f'| quick | 9.0 | {part} |' in result.stdout
    assert 'refused: 0\nbreaks: 0\nnot run: 0' in result.stdout


def test_sums_that_inductor_leaves_to_torch_are_launches():
    code = """
triton_per_0 = async_compile.triton('triton_per_0', x.to(tl.float32))
def call(self, args):
    triton_per_0.run(primals_1, buf0, workspace_0, 9408, 8, stream=stream0)
    buf1 = workspace_0[0 * 74 * 8 : (0 + 1) * 74 * 8].view(74, 8).sum(dim=0)
    buf2 = workspace_0[1 * 74 * 8 : (1 + 1) * 74 * 8].view(74, 8).sum(dim=0).to(torch.bfloat16)
    buf3 = torch.ops.mtp.column_sums.default([buf0], [], [], [], [], [False])
"""
    assert calls_of(code) == {'triton': 1, 'sum': 2, 'to': 1, 'mtp.column_sums.default': 1}


class Both(torch.autograd.Function):
    """Two results, of which a later one may not be used."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y, x + y

    @staticmethod
    def backward(ctx, product, total):
        x, y = ctx.saved_tensors
        return product * y + total, product * x + total


def test_a_bias_of_a_convolution_is_a_launch():
    x, weight, bias = torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3), torch.ones(2)
    launches = []
    for leaves in ([weight.requires_grad_()], [weight, bias.requires_grad_()]):
        with LaunchCounter() as counter:
            y = F.conv2d(x, *leaves)
            launches.append(counter.total())
            torch.autograd.grad(y, leaves, x.new_empty(y.shape))
        launches.append(counter.total())
    assert launches == [1, 2, 2, 4]  # forward, and with the gradients


def test_a_weight_that_lies_otherwise_than_the_maps_is_copied_in_each_call():
    x, weight = torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3)
    launches = []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = [t.to(memory_format=layout).requires_grad_() for t in (x, weight)]
        for leaves in (own, [own[0], weight.requires_grad_()]):
            with LaunchCounter() as counter:
                y = F.conv2d(*leaves)
                torch.autograd.grad(y, leaves, torch.ones_like(y))
            launches.append(counter.total() - 1)  # the ones
    assert launches == [3, 3, 3, 5]


class Copies(torch.autograd.Function):
    """Two copies; the gradient of one that is not used is None instead of zeros."""

    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x.clone(), x.clone()

    @staticmethod
    def backward(ctx, first, second):
        assert second is None
        return first


def test_missing_gradients_are_made_only_for_functions_that_take_them():
    x = torch.ones(2, requires_grad=True)
    with backward.in_python():
        (found,) = torch.autograd.grad(Copies.apply(x)[0].sum(), x)
    torch.testing.assert_close(found, torch.ones(2))


def test_gradients_in_python_are_those_of_autograd():
    x, weight, bias, unused = (
        torch.randn(size, requires_grad=True) for size in ((4, 8), (8, 8), (8,), (2,))
    )
    with torch.autocast('cpu', torch.bfloat16):
        hidden = torch.nn.functional.linear(x, weight, bias)
        product, _ = Both.apply(hidden, hidden.float().relu())
        first, second = product.split(4, 1)
        outputs = [(first.softmax(1) * second.sum(0, keepdim=True)).sum(), product[:, :2].mean()]
    inputs = [x, weight, bias, unused, hidden]
    expected = torch.autograd.grad(outputs, inputs, allow_unused=True, retain_graph=True)
    with backward.in_python():
        found = torch.autograd.grad(outputs, inputs, allow_unused=True)
    assert found[3] is None and expected[3] is None
    for gradient, reference in zip(found[:3] + found[4:], expected[:3] + expected[4:]):
        assert gradient.dtype == reference.dtype
        torch.testing.assert_close(gradient, reference)


def test_a_checkpoint_computes_again_once_and_keeps_its_inputs():
    calls = []

    def function(x):
        calls.append(x)
        return (x.sin().cos() * x.exp()).tanh()

    x = torch.randn(8, requires_grad=True)
    with Kept(torch.nn.Module()) as recorder:
        y = recomputed(function, x)
    with backward.in_python():
        (found,) = torch.autograd.grad(y.sum(), x)
    assert recorder.nbytes == x.nbytes and len(calls) == 2
    torch.testing.assert_close(found, torch.autograd.grad(function(x).sum(), x)[0])


def test_what_a_compiled_forward_hands_on_is_counted():
    """Results of products are kept, what is made of them is computed again."""

    def part(x, weight):
        hidden = x @ weight
        return hidden.sin().sin(), hidden * 2, x @ weight[:, :4]

    found = []

    def forward(graph, inputs, **settings):
        if not settings.get('is_backward'):
            number = torch._guards.TracingContext.get().fw_metadata.num_forward
            found.append(kept.handed_on(graph, number))
        return make_boxed_func(graph.forward)

    def backend(graph, inputs):
        with cheap_recomputation(graph):
            return compile_fx(graph, inputs, inner_compile=forward)

    x, weight = torch.randn(16, 8, requires_grad=True), torch.randn(8, 32, requires_grad=True)
    results = torch.compile(part, backend=backend)(x * 1, weight)
    torch._dynamo.reset()
    assert found == [kept.HandedOn(nbytes=16 * 32 * 4, inputs=(0, 1), outputs=())]

    recorder = SimpleNamespace(unseen=0, kept=[])
    recorder.keep = recorder.kept.append
    handed = kept.HandedOn(100, (1,), ((results[2].shape, torch.float32),))
    kept.add(recorder, handed, (x, weight), results)
    assert recorder.unseen == 100
    assert recorder.kept[0] is weight and recorder.kept[1] is results[2]
