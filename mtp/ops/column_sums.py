"""Sums over the rows of many matrices at once, as gradients of biases and layer norms need them.

Autograd sums the gradient of a linear layer's output for its bias, and that of a layer norm's
output twice. Compiled alone, each sum takes two launches, and a transformer block has eight. Its
operands stay in memory for other reasons, so all of a block can be summed together:
:mod:`mtp.engine.joined_sums` finds them in a compiled backward pass.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtp.ops.dispatch import twin_of, use_triton


@torch.library.custom_op(
    'mtp::column_sums', mutates_args=(), tags=(torch.Tag.needs_contiguous_strides,)
)
def column_sums(
    grads: Sequence[Tensor],
    addends: Sequence[Tensor],
    inputs: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
    rounded: Sequence[bool],
) -> list[Tensor]:
    """Sum each gradient over its rows, and those of layer norms also times the normalised input.

    Norms come before plain gradients, those with an addend first.

    Args:
        grads: gradients of the outputs of linear layers and norms, ``(R, C)``, each with its own R
            and C. They are copied only if not contiguous, as are all operands.
        addends: second terms of the first gradients, of their shapes; a dtype of their own.
        inputs: inputs of the first gradients' layer norms, of their shapes; a dtype of their own.
        means: mean of each row of the first inputs, float32 ``(R,)``; further ones are normalised.
        rstds: 1 / deviation of each row of the first inputs, float32 ``(R,)``.
        rounded: whether the sums of a gradient have its dtype; else they have float32.

    Returns:
        list[Tensor]: sums ``(C,)`` of all gradients, then those of the norms' gradients times
        ``(input - mean) * rstd``, or the normalised input; added up in float32 or wider.

    Raises:
        ValueError: shapes do not fit together.
    """
    _check(grads, addends, inputs, means, rstds, rounded)
    form: Callable[..., list[Tensor]] = column_sums_torch
    if use_triton(*grads, *addends, *inputs):
        from mtp.ops.triton.column_sums import column_sums as form
    return form(grads, addends, inputs, means, rstds, rounded)


@twin_of('column_sums')
def column_sums_torch(
    grads: Sequence[Tensor],
    addends: Sequence[Tensor],
    inputs: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
    rounded: Sequence[bool],
) -> list[Tensor]:
    """Compute :func:`column_sums` in torch."""
    wide = [grad.to(_dtype(grad, False)) for grad in grads]
    wide[: len(addends)] = [grad + addend for grad, addend in zip(wide, addends)]
    normalised = [
        (x - mean[:, None]) * rstd[:, None] for x, mean, rstd in zip(inputs, means, rstds)
    ]
    products = [grad * x for grad, x in zip(wide, [*normalised, *inputs[len(means) :]])]
    return [
        values.sum(0, dtype=_dtype(grad, narrow))
        for matrices in (wide, products)
        for values, grad, narrow in zip(matrices, grads, rounded)
    ]


@column_sums.register_fake
def _fake(
    grads: Sequence[Tensor],
    addends: Sequence[Tensor],
    inputs: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
    rounded: Sequence[bool],
) -> list[Tensor]:
    return [
        grad.new_empty(grad.shape[1], dtype=_dtype(grad, narrow))
        for matrices in (grads, inputs)
        for _, grad, narrow in zip(matrices, grads, rounded)
    ]


def _check(
    grads: Sequence[Tensor],
    addends: Sequence[Tensor],
    inputs: Sequence[Tensor],
    means: Sequence[Tensor],
    rstds: Sequence[Tensor],
    rounded: Sequence[bool],
) -> None:
    shapes = [grad.shape for grad in grads]
    if (
        any(len(shape) != 2 for shape in shapes)
        or any(x.shape != shape for x, shape in zip(addends, shapes))
        or any(x.shape != shape for x, shape in zip(inputs, shapes))
        or any(x.shape != shape[:1] for of in (means, rstds) for x, shape in zip(of, shapes))
        or not len(addends) <= len(inputs) <= len(grads) == len(rounded)
        or not len(rstds) == len(means) <= len(inputs)
    ):
        raise ValueError(
            f'gradients of shapes {[*map(tuple, shapes)]} must be (R, C), addends and inputs have '
            'the shapes of the first of them, and means and rstds (R,) go with the first inputs'
        )


def _dtype(grad: Tensor, rounded: bool) -> torch.dtype:
    """Return the dtype of a gradient's sums."""
    return grad.dtype if rounded else torch.promote_types(grad.dtype, torch.float32)
