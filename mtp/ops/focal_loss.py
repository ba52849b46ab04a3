"""Sigmoid focal loss over class indices, and its derivative.

Source: Lin et al., *Focal Loss for Dense Object Detection*, eq. 5.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp.ops.dispatch import gradients, twin_of, use_triton


def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
) -> Tensor:
    """Compute the elementwise sigmoid focal loss; differentiable in ``logits``.

    Equal to ``mmcv.ops.sigmoid_focal_loss`` with ``reduction='none'``.

    Args:
        logits: logits ``(N, C)``.
        target: class indices ``(N,)``, int64, 0..C; C is background. On CUDA, where targets are not
            checked before the loss is computed, any other index counts as background too.
        gamma: focusing exponent.
        alpha: weight of positive samples; negative samples have 1 - alpha.
        weight: weight of each class ``(C,)``, applied by the row's target; None for 1. Background
            has 1.

    Returns:
        Tensor: loss ``(N, C)``, the dtype of ``logits``; computed in float32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or, on CPU, a target is not in 0..C.
    """
    _check(logits, target, weight)
    form: Callable[..., Tensor]
    if use_triton(logits):
        from mtp.ops.triton.focal_loss import sigmoid_focal_loss as form
    else:
        form = sigmoid_focal_loss_torch
    return form(logits, target, gamma, alpha, weight)


def sigmoid_focal_loss_derivative(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the derivative ``(N, C)`` of each element of :func:`sigmoid_focal_loss` by its
    logit."""
    _check(logits, target, weight)
    form: Callable[..., Tensor]
    if use_triton(logits):
        from mtp.ops.triton.focal_loss import sigmoid_focal_loss_backward as form
    else:
        form = sigmoid_focal_loss_backward_torch
    return form(None, logits, target, gamma, alpha, weight)


@twin_of('sigmoid_focal_loss')
def sigmoid_focal_loss_torch(
    logits: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor | None
) -> Tensor:
    """Compute :func:`sigmoid_focal_loss` in torch."""
    _, factor, x = _terms(logits, target, alpha, weight)
    # powers of p as exponentials: for gamma < 1, p ** gamma has no finite derivative at p = 0
    return (-factor * (gamma * F.logsigmoid(-x)).exp() * F.logsigmoid(x)).to(logits.dtype)


@twin_of('sigmoid_focal_loss_backward')
def sigmoid_focal_loss_backward_torch(
    grad_loss: Tensor | None,
    logits: Tensor,
    target: Tensor,
    gamma: float,
    alpha: float,
    weight: Tensor | None,
) -> Tensor:
    """Return the gradient of the logits, or each element's derivative if ``grad_loss`` is None."""
    if grad_loss is not None:
        return gradients(
            lambda x: sigmoid_focal_loss_torch(x, target, gamma, alpha, weight),
            (logits,),
            grad_loss,
        )[0]
    sign, factor, x = _terms(logits, target, alpha, weight)
    log_p, log_not_p = F.logsigmoid(x), F.logsigmoid(-x)
    slope = gamma * log_p.exp() * log_p - log_not_p.exp()
    return (sign * factor * (gamma * log_not_p).exp() * slope).to(logits.dtype)


def _terms(
    logits: Tensor, target: Tensor, alpha: float, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sign (1 at the target's logit, -1 elsewhere), factor, and logit of the correct answer,
    all ``(N, C)``."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    classes = logits.shape[1]
    positive = target[:, None] == torch.arange(classes, device=logits.device)
    sign = positive.to(x.dtype) * 2 - 1
    factor = torch.where(positive, alpha, 1 - alpha).to(x.dtype)
    if weight is not None:
        padded = torch.cat([weight.detach().to(x.dtype), x.new_ones(1)])
        known = (target >= 0) & (target < classes)
        factor = factor * padded[target.where(known, classes)][:, None]
    return sign, factor, sign * x


def _check(logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if logits.dim() != 2 or not logits.is_floating_point() or target.shape != logits.shape[:1]:
        raise ValueError(
            'logits must be floating-point (N, C) and target (N,); got '
            f'{logits.dtype} {tuple(logits.shape)} and {tuple(target.shape)}'
        )
    if target.dtype != torch.int64:
        raise ValueError(f'target must be int64 class indices, got {target.dtype}: target.long()')
    if weight is not None and weight.shape != logits.shape[1:]:
        raise ValueError(
            f'weight must have one number for each of the {logits.shape[1]} classes; '
            f'got shape {tuple(weight.shape)}'
        )
    if any(t is not None and t.device != logits.device for t in (target, weight)):
        raise ValueError(
            'logits, target and weight must be on one device; got '
            + ', '.join(str(t.device) for t in (logits, target, weight) if t is not None)
        )
    # Reading values on CUDA would make the host wait for the device.
    if target.device.type == 'cpu' and len(target) and not torch.compiler.is_compiling():
        low, high = target.aminmax()
        if low < 0 or high > logits.shape[1]:
            raise ValueError(
                f'target must be in 0..{logits.shape[1]} (classes, then background); '
                f'got {low} to {high}'
            )
