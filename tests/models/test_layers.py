"""Batch normalisation whose statistics belong to one data set at a time."""
import pytest
import torch
from torch import nn

from mtp.models.layers import PerDatasetBatchNorm, set_dataset_sizes
from tests.distributed import run_processes


def test_equals_one_call_per_dataset():
    x = torch.randn(6, 4, 5, 5) * 3 + torch.arange(6).view(6, 1, 1, 1)
    plain, ours = nn.BatchNorm2d(4), PerDatasetBatchNorm(4)
    set_dataset_sizes(ours, [1, 3, 2])
    expected = torch.cat([plain(part) for part in x.split([1, 3, 2])])
    torch.testing.assert_close(ours(x), expected)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


def test_statistics_of_bfloat16_are_float32():
    x = torch.randn(4, 4, 8, 8) + 50  # bfloat16 has steps of 0.25 here
    layer, plain = PerDatasetBatchNorm(4), PerDatasetBatchNorm(4)
    out = layer(x.bfloat16())
    plain(x.bfloat16().float())
    assert out.dtype == torch.bfloat16
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[key], value)


def test_one_value_per_channel_is_refused():
    layer = PerDatasetBatchNorm(4)
    set_dataset_sizes(layer, [1, 1])
    with pytest.raises(ValueError, match='two images per data set'):
        layer(torch.randn(2, 4, 1, 1))


def _normalise_half(rank, x, weight, compiled):
    layer = PerDatasetBatchNorm(4)
    if compiled:
        layer.compile(backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        layer.weight.copy_(weight)
    set_dataset_sizes(layer, [1, 2])
    mine = torch.cat([part.chunk(2)[rank] for part in x.split([2, 4])]).requires_grad_()
    out = layer(mine)
    (out ** 3).mean().backward()
    return out.detach(), mine.grad, layer.weight.grad, layer.state_dict()


@pytest.mark.parametrize('compiled', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_equal_one(compiled):
    x = torch.randn(6, 4, 3, 3) * 2 + 50  # a large mean shows cancellation
    weight = torch.rand(4) + 0.5
    (out0, grad0, wgrad0, state), (out1, grad1, wgrad1, _) = run_processes(
        _normalise_half, 2, x, weight, compiled)

    layer = PerDatasetBatchNorm(4)
    with torch.no_grad():
        layer.weight.copy_(weight)
    set_dataset_sizes(layer, [2, 4])
    x.requires_grad_()
    expected = layer(x)
    # DDP averages gradients over processes, and each has half of the images
    (expected ** 3).mean().backward()

    def merge(a, b):
        return torch.cat([a[:1], b[:1], a[1:], b[1:]])
    torch.testing.assert_close(merge(out0, out1), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merge(grad0, grad1) / 2, x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((wgrad0 + wgrad1) / 2, layer.weight.grad, rtol=1e-4, atol=1e-4)
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-4)
