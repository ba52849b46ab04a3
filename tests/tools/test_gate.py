"""The quick part of the gate: what once did not compile on a GPU, compiled without one."""

import os
import subprocess
import sys

import pytest
import torch

from tests.tools.test_train import REPO
from tools.gate import backward

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
