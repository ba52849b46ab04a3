"""Compiled packages with the same operators, or with the nearest ones.

Each function takes the operands of :mod:`operators.cases`, and is called only where its package is
installed.
"""

from importlib.metadata import version

import torch
from torch import Tensor

from mtp.ops import mmcv_ext


def compiled_mmcv() -> bool:
    """Return whether ``mmcv.ops`` runs on mmcv's own extension."""
    return mmcv_ext.choice() == 'native'


def mmcv_roi_align_rotated(
    features: Tensor, rois: Tensor, bins: int, scale: float, samples: int
) -> Tensor:
    from mmcv.ops import RoIAlignRotated

    return RoIAlignRotated(bins, scale, samples, clockwise=True)(features, rois.to(features.dtype))


def mmcv_box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    from mmcv.ops import box_iou_rotated

    return box_iou_rotated(boxes1, boxes2)


def mmcv_nms_rotated(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    from mmcv.ops import nms_rotated

    return nms_rotated(boxes, scores, threshold)[1]


def mmcv_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    from mmcv.ops import sigmoid_focal_loss

    return sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')


def torchvision_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the focal loss from one-hot targets."""
    from torchvision.ops import sigmoid_focal_loss

    labels = torch.nn.functional.one_hot(target, logits.shape[1] + 1)[:, :-1]
    return sigmoid_focal_loss(logits, labels.to(logits.dtype), alpha=0.25, gamma=2.0)


def upright_roi_align(
    features: Tensor, rois: Tensor, bins: int, scale: float, samples: int
) -> Tensor:
    """Apply RoIAlign to unrotated boxes of the same sizes."""
    from torchvision.ops import roi_align

    return roi_align(
        features,
        torch.cat([rois[:, :1], _upright(rois[:, 1:5])], 1).to(features),
        bins,
        scale,
        samples,
        aligned=True,
    )


def upright_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Apply NMS to unrotated boxes of the same sizes."""
    from torchvision.ops import nms

    return nms(_upright(boxes[:, :4]), scores, threshold)


def _upright(boxes: Tensor) -> Tensor:
    centre, size = boxes.split(2, 1)
    return torch.cat([centre - size / 2, centre + size / 2], 1)


class _DCNv3(torch.autograd.Function):
    """OpenGVLab's extension.

    Its arguments are the operands, then 64 images a step, and since 1.1 whether the kernel's centre
    is removed.
    """

    @staticmethod
    def forward(ctx, *operands):
        import DCNv3

        ctx.save_for_backward(*operands[:3])
        ctx.settings = operands[3:]
        ctx.last = (64,) if version('DCNv3').startswith('1.0') else (64, False)
        return DCNv3.dcnv3_forward(*operands, *ctx.last)

    @staticmethod
    def backward(ctx, grad_output):
        import DCNv3

        grads = DCNv3.dcnv3_backward(
            *ctx.saved_tensors, *ctx.settings, grad_output.contiguous(), *ctx.last
        )
        return *grads, *(None for _ in ctx.settings)


def dcnv3(
    input: Tensor, offset: Tensor, mask: Tensor, group: int, channels: int, scale: float
) -> Tensor:
    operands = (input, offset.to(input), mask.to(input))  # of one dtype
    return _DCNv3.apply(*operands, 3, 3, 1, 1, 1, 1, 1, 1, group, channels, scale)


def dcnv4(
    input: Tensor, offset: Tensor, mask: Tensor, group: int, channels: int, scale: float
) -> Tensor:
    """Apply DCNv4 to the same numbers, joined to one tensor and padded to 8 channels."""
    from DCNv4.functions import DCNv4Function

    both = torch.cat([offset, mask.to(offset)], -1).to(input)
    both = torch.nn.functional.pad(both, (0, -both.shape[3] % 8))
    return DCNv4Function.apply(
        input, both, 3, 3, 1, 1, 1, 1, 1, 1, group, channels, scale, 256, False
    )
