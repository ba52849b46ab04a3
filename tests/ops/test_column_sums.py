"""Sums over the rows of many matrices."""

import pytest
import torch

from mtp.ops import column_sums


def make_operands(rows, addends, norms, widths, dtype, device='cpu'):
    """Gradients of norms, the last one's input normalised, and of linear layers, rounded.

    The first has this number of rows, each further one half as many as the one before.
    """
    generator = torch.Generator().manual_seed(0)

    def make(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator).to(device, dtype)

    shapes = [(rows >> i, width) for i, width in enumerate(widths)]
    grads = [make(*shape) for shape in shapes]
    statistics = [
        [make(number, dtype=torch.float32) for number, _ in shapes[: max(norms - 1, 0)]]
        for _ in range(2)
    ]
    return (
        grads,
        [make(*shape, dtype=torch.float32) for shape in shapes[:addends]],
        [make(*shape) for shape in shapes[:norms]],
        *statistics,
        [i >= norms for i in range(len(widths))],
    )


def reference(grads, addends, inputs, means, rstds, rounded):
    """All sums in float64."""
    grads = [grad.double() for grad in grads]
    grads[: len(addends)] = [grad + addend for grad, addend in zip(grads, addends)]
    inputs = [x.double() for x in inputs]
    inputs[: len(means)] = [
        (x - mean[:, None]) * rstd[:, None] for x, mean, rstd in zip(inputs, means, rstds)
    ]
    products = [grad * x for grad, x in zip(grads, inputs)]
    return [matrix.sum(0) for matrix in grads + products]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_twin_equals_the_sums_in_float64(dtype):
    operands = make_operands(50, 1, 2, (8, 5, 3), dtype)
    found = column_sums(*operands)
    assert [sums.dtype for sums in found] == [torch.float32] * 2 + [dtype] + [torch.float32] * 2
    for result, expected in zip(found, reference(*operands), strict=True):
        tolerance = 1e-2 if result.dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


def test_shapes_that_do_not_fit_are_refused():
    grads, *others = make_operands(6, 1, 2, (8, 5, 3), torch.float32)
    for operands in ([grads[:2], *others], [[grads[0][:3], *grads[1:]], *others]):
        with pytest.raises(ValueError, match='of the first of them'):
            column_sums(*operands)


def test_operator_is_registered_rightly():
    operands = make_operands(6, 1, 2, (8, 5, 3), torch.bfloat16)
    torch.library.opcheck(
        torch.ops.mtp.column_sums, operands, test_utils=('test_schema', 'test_faketensor')
    )
