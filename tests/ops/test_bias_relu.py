"""Bias and ReLU of maps in torch, and the operators' registration."""

import pytest
import torch
import torch.nn.functional as F

from mtp.ops import bias_relu
from mtp.ops.triton.bias_relu import bias_relu as operator
from mtp.ops.triton.bias_relu import bias_relu_backward as backward


def make(shapes, channels=5, dtype=torch.float32, device='cpu', layout=torch.channels_last):
    """Maps of two images, and a bias."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, channels, *shape, generator=generator)
        .to(device, dtype)
        .contiguous(memory_format=layout)
        for shape in shapes
    ]
    return maps, torch.randn(channels, generator=generator).to(device, dtype)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_rows_are_the_pixels_after_bias_and_relu(layout):
    maps, bias = make([(4, 3), (1, 2)], layout=layout)
    rows = bias_relu(maps, bias)
    assert rows.shape == (2, 14, 5)
    expected = [F.relu(x + bias[:, None, None]) for x in maps]
    for part, x in zip(rows.split([12, 2], 1), expected):
        assert part.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2).equal(x)


@pytest.mark.parametrize('frozen', [0, 1])
def test_a_frozen_operand_gets_no_gradient(frozen):
    maps, bias = make([(4, 3)])
    operands = [*maps, bias]
    operands[1 - frozen].requires_grad_()
    bias_relu(maps, bias).sum().backward()
    assert [x.grad is None for x in operands] == [frozen == 0, frozen == 1]


def test_a_bias_is_cast_as_under_autocast():
    (x,), _ = make([(4, 3)])
    layer = torch.nn.Conv2d(5, 5, 1)
    with torch.autocast('cpu', torch.bfloat16):
        rows = bias_relu([F.conv2d(x, layer.weight)], layer.bias)
        expected = F.relu(F.conv2d(x, layer.weight) + layer.bias.bfloat16()[:, None, None])
    assert rows.equal(expected.permute(0, 2, 3, 1).flatten(1, 2))
    assert torch.autograd.grad(rows.sum(), layer.bias)[0].dtype == torch.float32


def test_maps_that_do_not_fit_are_refused():
    (x,), bias = make([(4, 4)])
    for maps in ([x, x[:1]], [x[:, :4]], [x, x[:, :4]], [x, x.half()]):
        with pytest.raises(ValueError, match='as many channels as'):
            bias_relu(maps, bias)


def test_operators_are_registered_rightly():
    maps, bias = make([(4, 3), (1, 2)])
    grad = torch.randn(2, 14, 5)
    for call, arguments in (
        (operator, ([x.requires_grad_() for x in maps], bias.requires_grad_())),
        (backward, (grad, grad.relu(), [4, 1], [3, 2])),
    ):
        torch.library.opcheck(
            call,
            arguments,
            test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'),
        )
