"""RoIAlign of rotated RoIs, and its gradient."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp.ops.dispatch import MAX_ADAPTIVE_SAMPLES, twin_of, use_triton

# Samples computed at once: bounds the memory of large RoIs that are sampled adaptively.
_SAMPLES_PER_CHUNK = 1 << 18


def roi_align_rotated(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
    clockwise: bool = False,
) -> Tensor:
    """Average-pool bilinear samples of a feature map on a grid that is rotated with each RoI.

    Equal to ``mmcv.ops.roi_align_rotated``, and differentiable in ``features``. A RoI that is not
    finite gives 0.

    Args:
        features: feature maps ``(B, C, H, W)``; the kernel reads them channels-last, and copies
            maps of another layout.
        rois: RoIs ``(N, 6)``: image index, cx, cy, w, h in image pixels, theta in radians.
        output_size: number of bins ``(height, width)``, or one number for both.
        spatial_scale: feature pixels per image pixel, 1 / stride.
        sampling_ratio: samples per bin and axis; 0 for ``ceil(RoI size / bins)``, at most 1024,
            which is 0 for a RoI without width or height: it gives 0.
        aligned: whether pixel centres are at half integers, as in ``torchvision.ops.roi_align``.
        clockwise: whether positive theta turns clockwise on screen, as in mmrotate.

    Returns:
        Tensor: pooled features ``(N, C, height, width)``, the dtype of ``features``; computed in
        float32 or wider.

    Raises:
        ValueError: shapes, dtypes or devices are wrong, or, on CPU, ``features`` has no image of a
            RoI's index (not checked on CUDA, where such a RoI gives 0).
    """
    bins = _check(features, rois, output_size)
    form: Callable[..., Tensor]
    if use_triton(features):
        from mtp.ops.triton.roi_align_rotated import roi_align_rotated as form
    else:
        form = roi_align_rotated_torch
    return form(features, rois, *bins, spatial_scale, sampling_ratio, aligned, clockwise)


def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    shape: tuple[int, ...],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    """Return the gradient of :func:`roi_align_rotated` by its feature maps.

    Args:
        grad_output: gradient of the output ``(N, C, height, width)``, of the output's dtype.
        rois: RoIs ``(N, 6)``.
        shape: shape (B, C, H, W) of the feature maps.
        spatial_scale, sampling_ratio, aligned, clockwise: arguments of :func:`roi_align_rotated`.

    Returns:
        Tensor: gradient ``(B, C, H, W)``, the dtype of ``grad_output``.
    """
    form: Callable[..., Tensor]
    if use_triton(grad_output):
        from mtp.ops.triton.roi_align_rotated import roi_align_rotated_backward as form
    else:
        form = roi_align_rotated_backward_torch
    return form(grad_output, rois, list(shape), spatial_scale, sampling_ratio, aligned, clockwise)


@twin_of('roi_align_rotated')
def roi_align_rotated_torch(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    """Compute :func:`roi_align_rotated` in torch."""
    return _Pool.apply(
        features, rois, (height, width), spatial_scale, sampling_ratio, aligned, clockwise
    )


class _Pool(torch.autograd.Function):
    """Pooling as ``embedding_bag``: a bin is a weighted sum of a variable number of pixels."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, rois: Tensor, bins: tuple[int, int], *settings: Any
    ) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.settings = features.shape, settings
        dtype = torch.promote_types(features.dtype, torch.float32)
        table = features.to(dtype).permute(0, 2, 3, 1).flatten(0, 2)
        pooled = [features.new_zeros(0, features.shape[1], dtype=dtype)]
        pooled += [
            F.embedding_bag(
                pixels.flatten(), table, 4 * bags, mode='sum', per_sample_weights=weights.flatten()
            )
            for _, bags, pixels, weights in _chunks(rois.to(dtype), features.shape, bins, *settings)
        ]
        output = torch.cat(pooled).view(len(rois), *bins, features.shape[1])
        return output.permute(0, 3, 1, 2).to(features.dtype).contiguous()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad = roi_align_rotated_backward_torch(
            grad_output, *ctx.saved_tensors, ctx.shape, *ctx.settings
        )
        return grad, None, None, *(None for _ in ctx.settings)


@twin_of('roi_align_rotated_backward')
def roi_align_rotated_backward_torch(
    grad_output: Tensor, rois: Tensor, shape: Sequence[int], *settings: Any
) -> Tensor:
    """Compute :func:`roi_align_rotated_backward` in torch."""
    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    images, channels, height, width = shape
    grad_bins = grad_output.to(dtype).permute(0, 2, 3, 1).flatten(0, 2)
    grad = grad_bins.new_zeros(images * height * width, channels)
    for bag, _, pixels, weights in _chunks(rois.to(dtype), shape, grad_output.shape[2:], *settings):
        # Here a pixel is a weighted sum of bins. Adding bin by bin takes 15 times as long.
        pixels, order = pixels.flatten().sort(stable=True)
        counts = torch.bincount(pixels, minlength=len(grad))
        grad += F.embedding_bag(
            bag.repeat_interleave(4)[order],
            grad_bins,
            counts.cumsum(0) - counts,
            mode='sum',
            per_sample_weights=weights.flatten()[order],
        )
    grad = grad.view(images, height, width, channels).permute(0, 3, 1, 2)
    return grad.to(grad_output.dtype).contiguous()


def _chunks(
    rois: Tensor,
    shape: Sequence[int],
    bins: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield the samples of the bins of consecutive RoIs, in chunks of S samples.

    Yields:
        tuple: bin of each sample ``(S,)``, numbered through all RoIs; index in the chunk of the
        first sample of each of its bins; pixels and weights ``(S, 4)`` of the samples.
    """
    present = rois[:, 1:].abs().sum(1).isfinite() & (rois[:, 0] >= 0) & (rois[:, 0] < shape[0])
    rois = rois.where(present[:, None], 0)
    centre = rois[:, 1:3] * spatial_scale - (0.5 if aligned else 0.0)
    size = rois[:, 3:5] * spatial_scale
    if not aligned:
        size = size.clamp(min=1)
    angle = -rois[:, 5] if clockwise else rois[:, 5]
    if sampling_ratio > 0:
        ratio = torch.full_like(size, sampling_ratio, dtype=torch.long)
    else:
        ratio = size / torch.tensor(bins[::-1], device=size.device)
        ratio = ratio.ceil().clamp(0, MAX_ADAPTIVE_SAMPLES).long()
    ratio = ratio * present[:, None]

    chunk = (ratio.prod(1) * bins[0] * bins[1]).cumsum(0) // _SAMPLES_PER_CHUNK
    lengths = chunk.unique_consecutive(return_counts=True)[1].tolist()
    first = 0
    for image_i, centre_i, size_i, angle_i, ratio_i in (
        zip(*(part.split(lengths) for part in (rois[:, 0].long(), centre, size, angle, ratio)))
        if lengths
        else ()
    ):
        x, y, bag, bags = _sample_points(centre_i, size_i, angle_i, ratio_i, bins)
        roi = bag // (bins[0] * bins[1])
        pixels, weights = _bilinear(x, y, image_i[roi], shape[2:])
        yield first + bag, bags, pixels, weights / ratio_i.prod(1)[roi, None]
        first += len(bags)


def _sample_points(
    centre: Tensor, size: Tensor, angle: Tensor, ratio: Tensor, bins: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the S sampling positions of the bins of all RoIs, bin by bin.

    Args:
        centre: centres (x, y) of the RoIs ``(N, 2)``, feature pixels.
        size: width and height of the RoIs ``(N, 2)``, feature pixels.
        angle: angles of the RoIs ``(N,)``, radians, positive = counter-clockwise on screen.
        ratio: samples per bin along x and y ``(N, 2)``, int64.
        bins: number of bins (height, width).

    Returns:
        tuple: x, y and bin of each sample ``(S,)``; index of the first sample of each bin
        ``(N * height * width,)``.
    """
    per_bin = ratio.prod(1)
    counts = per_bin.repeat_interleave(bins[0] * bins[1])
    bags = counts.cumsum(0) - counts
    bag = torch.repeat_interleave(counts)
    roi = bag // (bins[0] * bins[1])
    sample = torch.arange(len(bag), device=bag.device) - bags[bag]
    ratio_x, ratio_y = ratio[roi].unbind(1)
    column = bag % bins[1] * ratio_x + sample % ratio_x
    row = bag // bins[1] % bins[0] * ratio_y + sample // ratio_x
    u = ((column + 0.5) / (bins[1] * ratio_x) - 0.5) * size[roi, 0]
    v = ((row + 0.5) / (bins[0] * ratio_y) - 0.5) * size[roi, 1]
    cos, sin = angle.cos()[roi], angle.sin()[roi]
    # theta turns counter-clockwise on screen: y points down
    return u * cos + v * sin + centre[roi, 0], v * cos - u * sin + centre[roi, 1], bag, bags


def _bilinear(x: Tensor, y: Tensor, image: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the four pixels around each of S points and their weights, both ``(S, 4)``.

    A point up to one pixel outside takes the border's value; one further out has weight 0. Pixels
    are numbered row by row through all images of ``grid`` = (H, W).
    """
    height, width = grid
    inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    x = x.where(inside, 0).clamp(0, width - 1)
    y = y.where(inside, 0).clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    along_x, along_y = x - left, y - top
    left, top = left.long(), top.long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    top, bottom = (image * height + top) * width, (image * height + bottom) * width
    pixels = torch.stack([top + left, top + right, bottom + left, bottom + right], 1)
    weights = torch.stack(
        [
            (1 - along_y) * (1 - along_x),
            (1 - along_y) * along_x,
            along_y * (1 - along_x),
            along_y * along_x,
        ],
        1,
    )
    return pixels, weights * inside[:, None]


def _check(features: Tensor, rois: Tensor, output_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the number of bins (height, width) after checking the arguments."""
    if features.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 6:
        raise ValueError(
            'features must have shape (B, C, H, W) and rois (N, 6): image index, cx, '
            f'cy, w, h, theta; got {tuple(features.shape)} and {tuple(rois.shape)}'
        )
    if min(features.shape[1:]) < 1 or not features.is_floating_point():
        raise ValueError(
            'features must be floating-point and have channels and pixels; got '
            f'{features.dtype} {tuple(features.shape)}'
        )
    if rois.device != features.device:
        raise ValueError(
            f'rois are on {rois.device}, features on {features.device}: put both on one device'
        )
    bins = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(bins) != 2 or min(bins) < 1:
        raise ValueError(f'output_size={output_size}: it takes one or two numbers of at least 1')
    # Reading values on CUDA would make the host wait for the device.
    if rois.device.type == 'cpu' and not torch.compiler.is_compiling():
        if ((rois[:, 0] < 0) | (rois[:, 0] >= len(features))).any():
            raise ValueError(
                f'rois[:, 0] must index one of the {len(features)} images in '
                f'features; got {rois[:, 0].min():g} to {rois[:, 0].max():g}'
            )
    return bins
