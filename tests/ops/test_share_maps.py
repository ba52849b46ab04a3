"""Maps for several consumers, against each consumer's own sums in autograd."""

import pytest
import torch

from mtp.ops import share_maps
from mtp.ops.triton import share_maps as kernels


def make(dtype=torch.float32, layout=torch.channels_last):
    """Two maps of two images, the first of several chunks of pixels, and their biases."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, *shape, generator=generator) for shape in ((5, 9, 11), (130, 3, 5))]
    biases = [torch.randn(x.shape[1], generator=generator).to(dtype) for x in maps]
    return [x.to(dtype).contiguous(memory_format=layout) for x in maps], biases


def used(results):
    """What three consumers compute: parts of a canvas, other layouts, and nothing of some maps."""
    first, second, third = results
    height, width = first[1].shape[2:]
    canvas = torch.nn.functional.pad(first[1], (1, 2, 0, 3))
    small = torch.nn.functional.pad(first[2], (0, width - first[2].shape[3], 0, height))
    return [
        first[0].sin(),
        canvas.cos(),
        small.exp(),
        second[1].permute(2, 3, 0, 1).reshape(height, -1).tanh(),
        third[0][:1].square(),
        third[3].sum(),
    ]


def run(shared, operands):
    """Results of the consumers, and gradients of maps and biases."""
    learned = [x.detach().requires_grad_() for x in operands]
    outs = used(shared(learned[:2], learned[2:]))
    cotangents = [torch.linspace(-7, 7, out.numel()).sin().view(out.shape).to(out) for out in outs]
    grads = torch.autograd.grad(outs, learned, cotangents)
    return [x.detach() for x in (*outs, *grads)]


def plain(maps, biases):
    """Results of three consumers that share one tensor."""
    maps = [x + bias[:, None, None] for x, bias in zip(maps, biases)]
    for _ in range(2):
        maps.append(torch.nn.functional.max_pool2d(maps[-1], 1, stride=2))
    return 3 * [maps]


def of_operator(maps, biases):
    return share_maps(maps, 3, biases, subsampled=2)


def test_results_and_gradients_are_autograds():
    maps, biases = make(torch.float64)
    torch.testing.assert_close(
        run(of_operator, [*maps, *biases]), run(plain, [*maps, *biases]), rtol=1e-12, atol=1e-12
    )


def test_gradients_are_rounded_once():
    x = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    first, second, third = (maps[0] for maps in share_maps([x], 3))
    (grad,) = torch.autograd.grad(first * 256 + second + third, x)
    assert grad == 258  # one at a time, 256 + 1 = 256 in bfloat16


def test_maps_of_a_wider_dtype_get_gradients_that_are_not_rounded():
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    (first,), (second,) = share_maps([x], 2, dtype=torch.bfloat16)
    assert first.dtype == torch.bfloat16
    (grad,) = torch.autograd.grad(first * 256 + second, x)
    assert grad == 257 and grad.dtype == torch.float32


@pytest.mark.parametrize('frozen', [[0, 2], [2, 3], [0, 1], [0, 1, 2, 3]])
def test_what_is_frozen_gets_no_gradient(frozen):
    maps, biases = make()
    operands = [x.requires_grad_(i not in frozen) for i, x in enumerate([*maps, *biases])]
    results = share_maps(operands[:2], 2, operands[2:])
    learned = [{0, 2} - set(frozen) != set(), {1, 3} - set(frozen) != set()]
    assert [[x.requires_grad for x in own] for own in results] == 2 * [learned]
    if any(learned):
        sum(x.sum() for own in results for x in own).backward()
    for i, x in enumerate(operands):
        numbers = 1 if i < 2 else maps[i - 2][:, 0].numel()
        wanted = None if i in frozen else torch.full_like(x, 2.0 * numbers)
        torch.testing.assert_close(x.grad, wanted)


def test_a_map_that_nobody_uses_has_no_gradient():
    x, other = (torch.ones(1, 2, 2, 2, requires_grad=True) for _ in range(2))
    share_maps([x, other], 2)[1][1].sum().backward()
    assert x.grad is None and other.grad.eq(1).all()


def test_consumers_without_gradients_give_none():
    class Ending(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    x = torch.ones(1, 2, 2, 2, requires_grad=True)
    Ending.apply(share_maps([x], 2)[0][0]).sum().backward()
    assert x.grad is None


def test_biases_that_do_not_fit_are_refused():
    maps, biases = make()
    for wrong in (biases[:1], biases[::-1]):
        with pytest.raises(ValueError, match='a bias for each map'):
            share_maps(maps, 2, wrong)


def test_operators_are_registered_rightly():
    maps, biases = make()
    grads = [*maps, maps[1][..., ::2, ::2]]
    sizes = [side for x in maps for side in x.shape[2:]]
    for call, arguments in (
        (kernels.share_maps, (maps, biases)),
        (kernels.share_maps_backward, (grads, [0, 1, 1], [1, 1, 2], sizes, [True, False], True)),
        (kernels.share_maps_backward, (grads, [0, 1, 1], [1, 1, 2], sizes, [True, True], False)),
    ):
        torch.library.opcheck(call, arguments, test_utils=('test_schema', 'test_faketensor'))
