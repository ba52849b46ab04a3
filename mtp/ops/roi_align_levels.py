"""RoIAlign from the levels of a feature pyramid, each RoI from its own level."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtp.ops.dispatch import twin_of, use_triton
from mtp.ops.roi_align import roi_align, roi_align_backward
from mtp.ops.roi_align_rotated import roi_align_rotated_backward_torch, roi_align_rotated_torch

_CONVENTIONS = True, True  # aligned, clockwise


def roi_align_levels(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: int | tuple[int, int],
    strides: Sequence[int],
    sampling_ratio: int = 0,
) -> Tensor:
    """Average-pool each RoI from the feature map of its level.

    Equal to ``torchvision.ops.roi_align`` (``aligned=True``) or :func:`mtp.ops.roi_align_rotated`
    (``clockwise=True``) on the RoIs of each level, and differentiable in ``features``. The kernel
    does not sort RoIs by level, and the host does not wait for the device.

    Args:
        features: feature maps of L levels, ``(B, C, H, W)`` each with its own H and W, of one
            dtype.
        rois: RoIs ``(R, 5)``: image index, x1, y1, x2, y2; or ``(R, 6)``: image index, cx, cy, w,
            h, theta. Coordinates are image pixels; theta is in radians, positive = clockwise on
            screen.
        levels: level of each RoI ``(R,)``, int64, 0..L-1, or -1 for a padded slot, which gives 0.
        output_size: number of bins ``(height, width)``, or one number for both.
        strides: stride of each level, image pixels.
        sampling_ratio: samples per bin and axis; 0 for ``ceil(RoI size / bins)``, which is 0 for a
            RoI without width or height: it gives 0.

    Returns:
        Tensor: pooled features ``(R, C, height, width)``, the dtype of ``features``; computed in
        float32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices are wrong, or, on CPU, ``features`` has no such level
            or image (not checked on CUDA, where such RoIs give 0).
    """
    bins = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    _check(features, rois, levels, strides)
    scales = [1 / stride for stride in strides]
    form: Callable[..., Tensor]
    if use_triton(*features):
        from mtp.ops.triton.roi_align_levels import roi_align_levels as form
    else:
        form = roi_align_levels_torch
    return form(features, rois, levels, *bins, scales, sampling_ratio)


@twin_of('roi_align_levels')
def roi_align_levels_torch(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    height: int,
    width: int,
    scales: Sequence[float],
    sampling_ratio: int,
) -> Tensor:
    """Compute :func:`roi_align_levels` in torch, level by level."""
    pooled, places = [], []
    for level, (features_l, scale) in enumerate(zip(features, scales)):
        place = (levels == level).nonzero().squeeze(1)
        places.append(place)
        # also without RoIs: each map must be part of the autograd graph
        pooled.append(_pool(features_l, rois[place], (height, width), scale, sampling_ratio))
    output = pooled[0].new_zeros(len(rois), *pooled[0].shape[1:])
    return output.index_copy(0, torch.cat(places), torch.cat(pooled))


@twin_of('roi_align_levels_backward')
def roi_align_levels_backward_torch(
    grad_output: Tensor,
    rois: Tensor,
    levels: Tensor,
    images: int,
    sizes: Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int,
) -> Tensor:
    """Return the gradients of :func:`roi_align_levels` by its feature maps, ``(images, C, H, W)``.

    They lie in one tensor, one after the other, channels-last.

    Args:
        sizes: H and W of each level in turn, ``[H_0, W_0, H_1, W_1, ...]``, pixels.
    """
    grads = []
    for level, (height, width, scale) in enumerate(zip(sizes[::2], sizes[1::2], scales)):
        place = (levels == level).nonzero().squeeze(1)
        shape = images, grad_output.shape[1], height, width
        grad = _pool_backward(grad_output[place], rois[place], shape, scale, sampling_ratio)
        grads.append(grad.permute(0, 2, 3, 1).flatten())
    return torch.cat(grads)


def _pool(
    features: Tensor, rois: Tensor, bins: tuple[int, int], scale: float, sampling_ratio: int
) -> Tensor:
    if rois.shape[1] == 6:
        return roi_align_rotated_torch(features, rois, *bins, scale, sampling_ratio, *_CONVENTIONS)
    return roi_align(features, rois, *bins, scale, sampling_ratio)


def _pool_backward(
    grad_output: Tensor, rois: Tensor, shape: tuple[int, ...], scale: float, sampling_ratio: int
) -> Tensor:
    if rois.shape[1] == 6:
        return roi_align_rotated_backward_torch(
            grad_output, rois, shape, scale, sampling_ratio, *_CONVENTIONS
        )
    return roi_align_backward(grad_output, rois, shape, scale, sampling_ratio)


def _check(
    features: Sequence[Tensor], rois: Tensor, levels: Tensor, strides: Sequence[int]
) -> None:
    shapes = [tuple(features_l.shape) for features_l in features]
    if (
        not shapes
        or any(len(shape) != 4 or shape[:2] != shapes[0][:2] for shape in shapes)
        or len({features_l.dtype for features_l in features}) > 1
    ):
        raise ValueError(
            'features must be maps (B, C, H, W) of equal B, C and dtype; got '
            f'{[(features_l.dtype, *features_l.shape) for features_l in features]}'
        )
    if len(strides) != len(shapes):
        raise ValueError(f'{len(shapes)} levels need as many strides, got {list(strides)}')
    if rois.dim() != 2 or rois.shape[1] not in (5, 6):
        raise ValueError(
            'rois must be (R, 5): image index, x1, y1, x2, y2; or (R, 6): image '
            f'index, cx, cy, w, h, theta; got {tuple(rois.shape)}'
        )
    if levels.shape != rois.shape[:1] or levels.dtype != torch.int64:
        raise ValueError(
            f'{len(rois)} rois need as many levels, int64; got {levels.dtype} {tuple(levels.shape)}'
        )
    if not features[0].device == rois.device == levels.device:
        raise ValueError(
            f'features are on {features[0].device}, rois on {rois.device}, levels on '
            f'{levels.device}: move them to one device'
        )
    # Reading values on CUDA would make the host wait for the device.
    if rois.device.type == 'cpu' and not torch.compiler.is_compiling():
        if ((levels < -1) | (levels >= len(shapes))).any():
            raise ValueError(
                f'levels must be -1 to {len(shapes) - 1}; got {levels.min()} to {levels.max()}'
            )
        images = rois[levels >= 0, 0]
        if ((images < 0) | (images >= shapes[0][0])).any():
            raise ValueError(
                f'rois[:, 0] must index one of the {shapes[0][0]} images in features; '
                f'got {images.min():g} to {images.max():g}'
            )
