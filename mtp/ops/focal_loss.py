"""Sigmoid focal loss over class indices, in plain torch."""
import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25,
                       weight: Tensor | None = None) -> Tensor:
    """Focal loss of independent sigmoids, elementwise.

    Equal to ``mmcv.ops.sigmoid_focal_loss`` with ``reduction='none'``. Source: Lin et al., *Focal
    Loss for Dense Object Detection*, eq. 5.

    Args:
        logits: ``(N, C)``.
        target: int64 ``(N,)``, 0..C; C is background.
        gamma: focusing exponent.
        alpha: weight of positives, 1 - alpha of negatives.
        weight: ``(C,)``, by the row's target class; None for 1.

    Returns:
        Tensor: ``(N, C)``, the dtype of ``logits``; computed in float32 or wider.
    """
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    # powers of p as exponentials: for gamma < 1, p ** gamma has no finite derivative at p = 0
    log_p, log_not_p = F.logsigmoid(x), F.logsigmoid(-x)
    loss = torch.where(positive, -alpha * (gamma * log_not_p).exp() * log_p,
                       -(1 - alpha) * (gamma * log_p).exp() * log_not_p)
    if weight is not None:
        padded = torch.cat([weight.to(loss), loss.new_ones(1)])
        loss = loss * padded[target][:, None]
    return loss.to(logits.dtype)
