"""RoIAlign of horizontal RoIs with torchvision, or a deterministic variant where required.

torchvision accumulates the gradient on a GPU in any order. Under
``torch.use_deterministic_algorithms`` its function runs a Python implementation, which gives NaN
for RoIs without width or height. Here they give 0, as in torchvision otherwise.
"""

import torch
from torch import Tensor

from mtp.ops.deterministic import in_order
from mtp.ops.roi_align_rotated import roi_align_rotated_backward_torch, roi_align_rotated_torch


def roi_align(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = True,
) -> Tensor:
    """Average-pool each RoI; differentiable in ``features``.

    Args:
        features: feature maps ``(B, C, H, W)``.
        rois: RoIs ``(R, 5)``: image index, x1, y1, x2, y2, in image pixels.
        height, width: number of bins per RoI along each axis.
        spatial_scale: feature pixels per image pixel, 1 / stride.
        sampling_ratio: samples per bin and axis; 0 for ``ceil(RoI size / bins)``.
        aligned: whether pixel centres are at half integers.

    Returns:
        Tensor: pooled features ``(R, C, height, width)``, the dtype of ``features``; computed in
        float32 or wider.
    """
    if in_order(features) and features.requires_grad:
        return roi_align_rotated_torch(
            features,
            _turned(rois, spatial_scale, aligned),
            height,
            width,
            spatial_scale,
            sampling_ratio,
            aligned,
            True,
        )
    import torchvision  # noqa: F401  (here, because its import is slow; registers the operators)

    dtype = torch.promote_types(features.dtype, torch.float32)
    return torch.ops.torchvision.roi_align(
        features.to(dtype),
        rois.to(dtype),
        spatial_scale,
        height,
        width,
        sampling_ratio or -1,
        aligned,
    ).to(features.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    shape: tuple[int, ...],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = True,
) -> Tensor:
    """Return the gradient of feature maps of ``shape`` (B, C, H, W), in ``grad_output``'s dtype.

    Args:
        grad_output: gradient of the output, ``(R, C, height, width)``.
        rois, spatial_scale, sampling_ratio, aligned: arguments of :func:`roi_align`.
    """
    if in_order(grad_output):
        return roi_align_rotated_backward_torch(
            grad_output,
            _turned(rois, spatial_scale, aligned),
            shape,
            spatial_scale,
            sampling_ratio,
            aligned,
            True,
        )
    import torchvision  # noqa: F401  (registers the operators)

    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    return torch.ops.torchvision._roi_align_backward(
        grad_output.to(dtype),
        rois.to(dtype),
        spatial_scale,
        *grad_output.shape[2:],
        *shape,
        sampling_ratio or -1,
        aligned,
    ).to(grad_output.dtype)


def _turned(rois: Tensor, spatial_scale: float, aligned: bool) -> Tensor:
    """Convert horizontal RoIs ``(R, 5)`` to rotated ones ``(R, 6)`` with angle 0."""
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    first, second = rois[:, 1:3], rois[:, 3:5]
    if not aligned:  # at least one feature pixel, from the same top-left corner
        second = torch.maximum(second, first + 1 / spatial_scale)
    return torch.cat(
        [rois[:, :1], (first + second) / 2, second - first, torch.zeros_like(rois[:, :1])], 1
    )
