"""Small trial calls of every operator with a kernel, to find those that Triton refuses here."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mtp.fallback import fallen, reason_in_a_line
from mtp.ops.adaptive_pools import adaptive_pools
from mtp.ops.bias_relu import bias_relu
from mtp.ops.column_sums import column_sums
from mtp.ops.deform_conv import dcnv3
from mtp.ops.focal_loss import sigmoid_focal_loss
from mtp.ops.grouped_batch_norm import grouped_batch_norm
from mtp.ops.horizontal_nms import kept_horizontal
from mtp.ops.relative_position import relative_position_attention
from mtp.ops.resize_maps import resize_maps
from mtp.ops.roi_align_levels import roi_align_levels
from mtp.ops.roi_align_rotated import roi_align_rotated
from mtp.ops.rotated_boxes import box_iou_rotated, nms_rotated
from mtp.ops.rotated_window import rotated_window_attention
from mtp.ops.share_maps import share_maps
from mtp.ops.weight_layouts import lay_out_weights
from mtp.ops.window_operands import window_operands

# operator -> function of tensors, and its operands
Calls = dict[str, tuple[Callable[..., Tensor], list[Tensor]]]


def calls(device: torch.device | str, dtype: torch.dtype) -> Calls:
    """Return a call of each operator with small operands; differentiable ones require gradients."""

    def learned(*shape: int) -> Tensor:
        return torch.rand(shape, device=device, dtype=dtype, requires_grad=True)

    boxes = torch.tensor([[8.0, 8, 8, 4, 0.3], [9, 8, 8, 4, 0.1]], device=device)
    upright = torch.tensor([[1.0, 1, 7, 9], [2, 1, 8, 9]], device=device)
    image = torch.zeros(2, 1, device=device)
    number = torch.arange(2, device=device)
    attention = [(1, 2, 2, 3, 1, 8), *2 * [(1, 1, 2, 1, 1)], (1, 1, 1, 1), *2 * [(3, 8)], (1, 4, 4)]
    operands = [(1, 4, 8), *2 * [(2, 8, 1, 1), (2,)], (1, 8, 1, 1), (1,), (9, 1)]
    taps = (
        partial(
            dcnv3,
            kernel_size=1,
            stride=1,
            pad=0,
            dilation=1,
            group=1,
            group_channels=4,
            offset_scale=1.0,
        ),
        [learned(1, 2, 2, 4), learned(1, 2, 2, 2), learned(1, 2, 2, 1)],
    )
    pyramid = partial(_levels, strides=[1, 2])
    return {
        'rotated_window_attention': (
            rotated_window_attention,
            [learned(*shape) for shape in attention],
        ),
        'window_operands': (_operands, [learned(*shape) for shape in operands]),
        'column_sums': (_sums, [torch.rand(3, 4, device=device, dtype=dtype)]),
        'dcnv3': taps,
        'grouped_batch_norm': (_normalised, [learned(3, 2, 2, 2), learned(2), learned(2)]),
        'sigmoid_focal_loss': (sigmoid_focal_loss, [learned(2, 3), number]),
        'roi_align_rotated': (
            partial(roi_align_rotated, output_size=2, spatial_scale=1.0),
            [learned(1, 4, 9, 9), torch.cat([image, boxes], 1)],
        ),
        'roi_align_levels': (
            pyramid,
            [torch.cat([image, upright], 1), number, learned(1, 4, 9, 9), learned(1, 4, 5, 5)],
        ),
        'adaptive_pools': (_pooled, [learned(1, 2, 3, 3)]),
        'bias_relu': (_rectified, [learned(4), learned(2, 4, 3, 5), learned(2, 4, 2, 1)]),
        'lay_out_weights': (_turned, [torch.rand(2, 3, 2, 2, device=device, dtype=dtype)]),
        'resize_maps': (_resized, [learned(1, 4, 3, 5), learned(1, 2, 2, 1)]),
        'share_maps': (_shared, [learned(1, 2, 3, 3), learned(2)]),
        'box_iou_rotated': (box_iou_rotated, [boxes, boxes]),
        'kept_rotated': (partial(nms_rotated, iou_threshold=0.5), [boxes, boxes[:, 0]]),
        'kept_horizontal': (
            partial(kept_horizontal, iou_threshold=0.5),
            [upright[None], number[None] < 2],
        ),
        'relative_position_attention': (
            relative_position_attention,
            [learned(*shape) for shape in [(1, 6, 3, 1, 16), (3, 16), (5, 16)]],
        ),
    }


def _operands(x: Tensor, *parameters: Tensor) -> Tensor:
    return torch.cat([t.flatten() for t in window_operands(x, (2, 2), 2, *parameters)])


def _normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean, var = (torch.zeros_like(bias, requires_grad=False) for _ in range(2))
    number = torch.zeros((), dtype=torch.int64, device=x.device)
    return grouped_batch_norm(x, weight, bias, mean, var, number, [1, 2], 0.1, 1e-5, relu=True)


def _sums(x: Tensor) -> Tensor:
    row = x[:, 0].float()
    return torch.cat(column_sums([x, x], [x], [x], [row], [row], [False, True]))


def _levels(rois: Tensor, levels: Tensor, *features: Tensor, strides: list[int]) -> Tensor:
    return roi_align_levels(features, rois, levels, 2, strides)


def _pooled(x: Tensor) -> Tensor:
    return torch.cat([pool.flatten() for pool in adaptive_pools(x, [1, 2])])


def _rectified(bias: Tensor, *maps: Tensor) -> Tensor:
    return bias_relu([x - 0.5 for x in maps], bias - 0.5)


def _turned(weight: Tensor) -> Tensor:
    return lay_out_weights([weight], weight.dtype, True)[0].sin()


def _resized(*maps: Tensor) -> Tensor:
    return resize_maps(maps, (3, 5))


def _shared(x: Tensor, bias: Tensor) -> Tensor:
    results = share_maps([x], 2, [bias], subsampled=1)
    return torch.cat([y.flatten() for own in results for y in own])


def refusals(device: torch.device | str) -> dict[str, str]:
    """Run every call, forward and backward, and return the failed ones with a one-line reason."""
    failed = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, (function, tensors) in calls(device, dtype).items():
            try:
                out = function(*tensors)
                if out.requires_grad:
                    out.sum().backward()
            except RuntimeError as error:  # under MTP_STRICT=1 also a fall-back
                failed[name] = reason_in_a_line(error)
    return fallen() | failed
