"""RoIAlign of rotated regions, in plain torch."""
import torch
import torch.nn.functional as F
from torch import Tensor

# Samples worked on at once: bounds the memory of large RoIs that are sampled adaptively.
_SAMPLES_PER_CHUNK = 1 << 18


def roi_align_rotated(features: Tensor, rois: Tensor, output_size: int | tuple[int, int],
                      spatial_scale: float, sampling_ratio: int = 0, aligned: bool = True,
                      clockwise: bool = False) -> Tensor:
    """Average-pool bilinear samples of a feature map on a grid that is rotated with each RoI.

    Equal to ``mmcv.ops.roi_align_rotated``, differentiable in ``features``.

    Args:
        features: ``(B, C, H, W)``.
        rois: ``(N, 6)``: image index, cx, cy, w, h in image pixels, theta in radians.
        output_size: bins ``(height, width)``, or one number for both.
        spatial_scale: feature pixels per image pixel, 1 / stride.
        sampling_ratio: samples per bin and axis; 0 for ``ceil(RoI size / bins)``, where a RoI
            without width or height takes no samples and gives 0.
        aligned: pixel centres at half integers, as in ``torchvision.ops.roi_align``.
        clockwise: whether positive theta turns clockwise on screen, as in mmrotate.

    Returns:
        Tensor: ``(N, C, height, width)``, the dtype of ``features``; computed in float32 or wider.

    Raises:
        ValueError: wrong shapes, or a RoI of an image that ``features`` lack.
    """
    if features.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 6:
        raise ValueError('features must have shape (B, C, H, W) and rois (N, 6): image index, cx, '
                         f'cy, w, h, theta; got {tuple(features.shape)} and {tuple(rois.shape)}')
    if ((rois[:, 0] < 0) | (rois[:, 0] >= len(features))).any():
        raise ValueError(f'rois[:, 0] must index one of the {len(features)} images in features; '
                         f'got {rois[:, 0].min():g} to {rois[:, 0].max():g}')
    bins = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    dtype = torch.promote_types(features.dtype, torch.float32)
    rois = rois.to(dtype)
    centre = rois[:, 1:3] * spatial_scale - (0.5 if aligned else 0.0)
    size = rois[:, 3:5] * spatial_scale
    if not aligned:
        size = size.clamp(min=1)
    angle = -rois[:, 5] if clockwise else rois[:, 5]
    if sampling_ratio > 0:
        ratio = torch.full_like(size, sampling_ratio, dtype=torch.long)
    else:
        ratio = (size / size.new_tensor(bins[::-1])).ceil().long().clamp(min=0)

    # A bin is the weighted sum of pixels, as many as its RoI needs: a bag of rows of this table.
    table = features.to(dtype).permute(0, 2, 3, 1).flatten(0, 2)
    chunk = (ratio.prod(1) * bins[0] * bins[1]).cumsum(0) // _SAMPLES_PER_CHUNK
    lengths = chunk.unique_consecutive(return_counts=True)[1].tolist() or [0]
    pooled = []
    for image, *geometry in zip(*(part.split(lengths) for part in (
            rois[:, 0].long(), centre, size, angle, ratio))):
        x, y, roi, bags = _sample_points(*geometry, bins)
        pixels, weights = _bilinear(x, y, image[roi], features.shape[2:])
        weights = weights / geometry[-1].prod(1)[roi, None]
        pooled.append(F.embedding_bag(pixels.flatten(), table, 4 * bags, mode='sum',
                                      per_sample_weights=weights.flatten()))
    output = torch.cat(pooled).view(len(rois), *bins, features.shape[1])
    return output.permute(0, 3, 1, 2).to(features.dtype).contiguous()


def _sample_points(centre: Tensor, size: Tensor, angle: Tensor, ratio: Tensor,
                   bins: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the bins of all RoIs are sampled, bin after bin; S samples in all.

    Args:
        centre, size, angle: ``(N, 2)``, ``(N, 2)``, ``(N,)``, in feature pixels.
        ratio: int64 ``(N, 2)``, samples per bin along x and y.
        bins: height, width.

    Returns:
        tuple: x, y and RoI of each sample, ``(S,)``; first sample of each bin,
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
    # theta turns counter-clockwise on screen here, where y points down
    return u * cos + v * sin + centre[roi, 0], v * cos - u * sin + centre[roi, 1], roi, bags


def _bilinear(x: Tensor, y: Tensor, image: Tensor, grid: tuple[int, int]
              ) -> tuple[Tensor, Tensor]:
    """The four pixels around each of S points and their weights, both ``(S, 4)``.

    A point up to one pixel outside takes the border's value, one further out has weight 0.
    Pixels count row-major through all images of ``grid`` = (H, W).
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
    weights = torch.stack([(1 - along_y) * (1 - along_x), (1 - along_y) * along_x,
                           along_y * (1 - along_x), along_y * along_x], 1)
    return pixels, weights * inside[:, None]
