"""Greedy non-maximum suppression of horizontal boxes in many groups at once.

Shapes: G groups (one pyramid level of one image each), N boxes per group.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mtp.ops.dispatch import MOST_BOXES, twin_of, use_triton


def kept_horizontal(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes greedy suppression keeps, separately in each group.

    Equal to ``torchvision.ops.nms`` on the valid boxes of each group: a box is kept if no kept
    earlier box overlaps it by more than ``iou_threshold``. The kernel decides like torchvision on
    the CPU, even where an overlap differs from the threshold only by rounding. The host does not
    wait for the device, except on a GPU without the kernel or with more than 16384 boxes per group.
    Not differentiable.

    Args:
        boxes: boxes ``(G, N, 4)``: x1, y1, x2, y2; by falling score within a group.
        valid: flags ``(G, N)``, bool; the other boxes are neither kept nor suppress any.
        iou_threshold: IoU above which a box is suppressed, 0..1.

    Returns:
        Tensor: flags of the kept boxes ``(G, N)``, bool.

    Raises:
        ValueError: shapes, dtypes or devices are wrong.
    """
    if boxes.dim() != 3 or boxes.shape[2] != 4 or not boxes.is_floating_point():
        raise ValueError(
            'boxes must be floating-point (G, N, 4): x1, y1, x2, y2; got '
            f'{boxes.dtype} {tuple(boxes.shape)}'
        )
    if valid.shape != boxes.shape[:2] or valid.dtype != torch.bool:
        raise ValueError(
            f'valid must be bool {tuple(boxes.shape[:2])}, a flag a box; got '
            f'{valid.dtype} {tuple(valid.shape)}'
        )
    if valid.device != boxes.device:
        raise ValueError(
            f'boxes are on {boxes.device}, valid on {valid.device}: move them to one device'
        )
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    form: Callable[..., Tensor]
    if boxes.shape[1] <= MOST_BOXES and use_triton(boxes):
        from mtp.ops.triton.horizontal_nms import kept_horizontal as form
    else:
        form = kept_horizontal_torch
    return form(boxes, valid, iou_threshold)


@twin_of('kept_horizontal')
@torch.library.custom_op('mtp::kept_horizontal_torch', mutates_args=())
def kept_horizontal_torch(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Compute :func:`kept_horizontal` with torchvision, group by group.

    It is an operator, because compiled code cannot depend on the number of valid boxes.
    """
    from torchvision.ops import nms  # here, because its import is slow

    ranks = torch.arange(boxes.shape[1], 0, -1, device=boxes.device, dtype=boxes.dtype)
    keep = torch.zeros_like(valid)
    for boxes_g, valid_g, keep_g in zip(boxes, valid, keep):
        index = valid_g.nonzero().squeeze(1)
        keep_g[index[nms(boxes_g[index], ranks[: len(index)], iou_threshold)]] = True
    return keep


@kept_horizontal_torch.register_fake
def _(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(valid)
