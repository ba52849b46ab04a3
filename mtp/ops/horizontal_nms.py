"""Greedy non-maximum suppression of horizontal boxes in many groups at once.

Shapes: G groups (a pyramid level of an image each), N boxes of a group.
"""

import torch
from torch import Tensor

from mtp.ops.dispatch import MOST_BOXES, twin_of, use_triton


def kept_horizontal(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes greedy suppression keeps, in each group by itself.

    Equal to ``torchvision.ops.nms`` on the valid boxes of each group: the first stays, and so does
    each further one that no box that stays overlaps by more than ``iou_threshold``. The kernel
    decides as torchvision on the CPU does, also where an overlap is the threshold but for rounding.
    Nothing waits for the device, except on a GPU without the kernel or with more than 16384 boxes
    a group. Not differentiable.

    Args:
        boxes: ``(G, N, 4)``: x1, y1, x2, y2; by falling score within a group.
        valid: bool ``(G, N)``; the other boxes neither stay nor suppress.
        iou_threshold: 0..1.

    Returns:
        Tensor: bool ``(G, N)``.

    Raises:
        ValueError: wrong shapes, dtypes or devices.
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
    if boxes.shape[1] <= MOST_BOXES and use_triton(boxes):
        from mtp.ops.triton.horizontal_nms import kept_horizontal as form
    else:
        form = kept_horizontal_torch
    return form(boxes, valid, iou_threshold)


@twin_of('kept_horizontal')
@torch.library.custom_op('mtp::kept_horizontal_torch', mutates_args=())
def kept_horizontal_torch(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Do what :func:`kept_horizontal` does through torchvision, group by group.

    An operator, because compiled code cannot look at how many boxes are valid.
    """
    from torchvision.ops import nms  # slow to import, and mtp is not

    ranks = torch.arange(boxes.shape[1], 0, -1, device=boxes.device, dtype=boxes.dtype)
    keep = torch.zeros_like(valid)
    for boxes_g, valid_g, keep_g in zip(boxes, valid, keep):
        index = valid_g.nonzero().squeeze(1)
        keep_g[index[nms(boxes_g[index], ranks[: len(index)], iou_threshold)]] = True
    return keep


@kept_horizontal_torch.register_fake
def _(boxes, valid, iou_threshold):
    return torch.empty_like(valid)
