"""Batch normalisation whose statistics belong to one data set at a time."""

import pytest
import torch
import torch._dynamo
from torch import nn

from mtp.models.batch_norm import PerDatasetBatchNorm, set_dataset_sizes
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


def test_options_that_training_does_not_know_are_refused():
    with pytest.raises(ValueError, match='affine=True'):
        PerDatasetBatchNorm(4, affine=False)


def test_one_value_per_channel_is_refused():
    layer = PerDatasetBatchNorm(4)
    set_dataset_sizes(layer, [1, 1])
    with pytest.raises(ValueError, match='two images per data set'):
        layer(torch.randn(2, 4, 1, 1))


class Two(nn.Module):
    """Two layers that do not need each other's results."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([PerDatasetBatchNorm(4), PerDatasetBatchNorm(4)])

    def forward(self, x):
        return self.layers[0](x) + self.layers[1](x**2)


def two_steps(model, x):
    """What the second one gives; DDP reduces gradients between the layers from that one on."""
    for _ in range(2):
        model.zero_grad()
        x.grad = None
        out = model(x)
        (out**3).mean().backward()
    return out.detach()


def _normalise_half(rank, x, weight):
    """What a step gives with both processes uncompiled, then with one of them compiled."""
    found = []
    for compiled in (None, 1):
        model = Two()
        if rank == compiled:
            model.compile(backend='aot_eager', fullgraph=True)
        for layer in model.layers:
            layer.weight.data.copy_(weight)
        set_dataset_sizes(model, [1, 2])
        wrapper = nn.parallel.DistributedDataParallel(
            model, bucket_cap_mb=1e-5, broadcast_buffers=False
        )
        mine = torch.cat([part.chunk(2)[rank] for part in x.split([2, 4])]).requires_grad_()
        with torch._dynamo.config.patch(optimize_ddp=False):
            out = two_steps(wrapper, mine)
        found.append(
            dict(out=out, x=mine.grad, weight=model.layers[0].weight.grad, **model.state_dict())
        )
    return found


def test_two_processes_equal_one_compiled_or_not():
    x = torch.randn(6, 4, 3, 3) * 2 + 50  # a large mean shows cancellation
    weight = torch.rand(4) + 0.5
    (first, first_again), (second, second_again) = run_processes(_normalise_half, 2, x, weight)
    for before, after in ((first, first_again), (second, second_again)):
        assert all(torch.equal(before[key], after[key]) for key in before)

    model = Two()
    for layer in model.layers:
        layer.weight.data.copy_(weight)
    set_dataset_sizes(model, [2, 4])
    x.requires_grad_()
    out = two_steps(model, x)

    def merge(key):
        a, b = first[key], second[key]
        return torch.cat([a[:1], b[:1], a[1:], b[1:]])

    torch.testing.assert_close(merge('out'), out, rtol=1e-4, atol=1e-4)
    # of the mean over this process's half of the images
    torch.testing.assert_close(merge('x') / 2, x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first['weight'], model.layers[0].weight.grad, rtol=1e-4, atol=1e-4)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-4)
