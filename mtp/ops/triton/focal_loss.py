"""Sigmoid focal loss and its derivative, each in one pass over the logits.

A program takes consecutive elements of the ``(N, C)`` logits, whatever C is: loads and stores are
16 bytes wide, and the C elements of a row read its target from the cache.

Memory traffic per element: the forward pass reads the logit and writes the loss, 8 bytes in
float32 and 4 in bfloat16; the backward pass moves 12 and 6. A composition of torch operators moves
some 20 times as much (the paper uses mmcv's kernel).
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtp.ops.dispatch import else_twin
from mtp.ops.triton.common import TRITON_NAMES, CompileCase

BLOCK = 1024  # elements per program


@triton.jit
def _elements(
    logits: tl.tensor,
    target: tl.tensor,
    weight: 'tl.tensor | None',
    total: tl.tensor,
    classes: tl.tensor,
    alpha: tl.tensor,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Return the indices of this program's elements, whether they exist, their sign and factor, and
    the logit of the correct answer."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    # One division in 64 bits; those for the elements fit in 32.
    first = start // classes
    lane = tl.arange(0, BLOCK)
    column = (start - first * classes).to(tl.int32) + lane
    row = first + column // classes
    column %= classes
    places = start + lane
    inside = places < total
    label = tl.load(target + row, inside, other=-1)
    x = tl.load(logits + places, inside, other=0).to(tl.float32)
    positive = label == column
    factor = tl.where(positive, alpha, 1 - alpha)
    if weight is not None:
        known = inside & (label >= 0) & (label < classes)
        factor *= tl.load(weight + label, known, other=1).to(tl.float32)
    sign = tl.where(positive, 1.0, -1.0)
    return places, inside, sign, factor, sign * x


@triton.jit
def _log_sigmoids(x: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return log sigmoid of x and of -x, accurate to the last digits for large x too."""
    small = tl.exp(-tl.abs(x))
    rounded = 1 + small
    # log(1 + small) to the precision of small (Kahan)
    log = tl.where(
        rounded == 1, small, tl.log(rounded) * (small / tl.where(rounded == 1, 1.0, rounded - 1))
    )
    return tl.minimum(x, 0) - log, tl.minimum(-x, 0) - log


@triton.jit
def _forward_kernel(
    logits: tl.tensor,
    target: tl.tensor,
    weight: 'tl.tensor | None',
    loss: tl.tensor,
    total: tl.tensor,
    classes: tl.tensor,
    gamma: tl.tensor,
    alpha: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    places, inside, sign, factor, x = _elements(
        logits, target, weight, total, classes, alpha, BLOCK
    )
    log_p, log_not_p = _log_sigmoids(x)
    tl.store(loss + places, -factor * tl.exp(gamma * log_not_p) * log_p, inside)


@triton.jit
def _backward_kernel(
    grad_loss: 'tl.tensor | None',
    logits: tl.tensor,
    target: tl.tensor,
    weight: 'tl.tensor | None',
    grad_logits: tl.tensor,
    total: tl.tensor,
    classes: tl.tensor,
    gamma: tl.tensor,
    alpha: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    places, inside, sign, factor, x = _elements(
        logits, target, weight, total, classes, alpha, BLOCK
    )
    log_p, log_not_p = _log_sigmoids(x)
    slope = gamma * tl.exp(log_p) * log_p - tl.exp(log_not_p)
    grad = sign * factor * tl.exp(gamma * log_not_p) * slope
    if grad_loss is not None:
        grad *= tl.load(grad_loss + places, inside, other=0).to(tl.float32)
    tl.store(grad_logits + places, grad, inside)


@torch.library.custom_op('mtp::sigmoid_focal_loss', mutates_args=(), device_types=('cuda', 'cpu'))
@else_twin()
def sigmoid_focal_loss(
    logits: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor | None
) -> Tensor:
    """Launch the kernel of :func:`mtp.ops.sigmoid_focal_loss` on checked tensors."""
    loss = _fake(logits)
    _launch(_forward_kernel, (), logits, target, weight, loss, gamma, alpha)
    return loss


@torch.library.custom_op(
    'mtp::sigmoid_focal_loss_backward', mutates_args=(), device_types=('cuda', 'cpu')
)
@else_twin()
def sigmoid_focal_loss_backward(
    grad_loss: Tensor | None,
    logits: Tensor,
    target: Tensor,
    gamma: float,
    alpha: float,
    weight: Tensor | None,
) -> Tensor:
    """Return the gradient of the logits, or each element's derivative if ``grad_loss`` is None."""
    grad_logits = _fake(logits)
    grads = (None if grad_loss is None else grad_loss.contiguous(),)
    _launch(_backward_kernel, grads, logits, target, weight, grad_logits, gamma, alpha)
    return grad_logits


@sigmoid_focal_loss.register_fake
def _fake(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


@sigmoid_focal_loss_backward.register_fake
def _backward_fake(grad_loss: Tensor | None, logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    logits, target, ctx.gamma, ctx.alpha, weight = inputs
    ctx.save_for_backward(logits, target, weight)


def _gradients(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    logits, target, weight = ctx.saved_tensors
    grad = sigmoid_focal_loss_backward(grad_loss, logits, target, ctx.gamma, ctx.alpha, weight)
    return grad, None, None, None, None


sigmoid_focal_loss.register_autograd(_gradients, setup_context=_save)


def _launch(
    kernel: Any,
    grads: tuple[Tensor | None, ...],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    out: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    if not logits.numel():
        return
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        kernel[(triton.cdiv(logits.numel(), BLOCK),)](
            *grads,
            logits.contiguous(),
            target.contiguous(),
            None if weight is None else weight.contiguous(),
            out,
            logits.numel(),
            logits.shape[1],
            float(gamma),
            float(alpha),
            BLOCK=BLOCK,
            num_warps=4,
        )


def compile_cases() -> Iterator[CompileCase]:
    """Yield every case that :func:`_launch` can pick; class weights are float32."""
    cases = [
        (_forward_kernel, [['weight'], []]),
        (_backward_kernel, [['weight', 'grad_loss'], ['grad_loss'], ['weight'], []]),
    ]
    for kernel, options in cases:
        for absent in options:
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                types = {
                    **dict.fromkeys(
                        ('logits', 'loss', 'grad_loss', 'grad_logits'), f'*{TRITON_NAMES[dtype]}'
                    ),
                    'weight': '*fp32',
                    'target': '*i64',
                    'total': 'i64',
                    'classes': 'i32',
                    'gamma': 'fp32',
                    'alpha': 'fp32',
                    **dict.fromkeys(['BLOCK', *absent], 'constexpr'),
                }
                yield CompileCase(
                    kernel,
                    {name: types[name] for name in kernel.arg_names},
                    {'BLOCK': BLOCK, **dict.fromkeys(absent)},
                )
