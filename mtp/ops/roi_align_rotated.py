"""RoIAlign of rotated regions, in plain torch."""
import torch
import torch.nn.functional as F
from torch import Tensor


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
        sampling_ratio: samples per bin and axis; 0 for ``ceil(RoI size / bins)``.
        aligned: pixel centres at half integers, as in ``torchvision.ops.roi_align``.
        clockwise: whether positive theta turns clockwise on screen, as in mmrotate.

    Returns:
        Tensor: ``(N, C, height, width)``, the dtype of ``features``.

    Raises:
        ValueError: wrong shapes.
    """
    if features.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 6:
        raise ValueError('features must have shape (B, C, H, W) and rois (N, 6): image index, cx, '
                         f'cy, w, h, theta; got {tuple(features.shape)} and {tuple(rois.shape)}')
    bins = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    dtype = torch.promote_types(features.dtype, torch.float32)
    rois = rois.to(dtype)
    centre = rois[:, 1:3] * spatial_scale - (0.5 if aligned else 0.0)
    size = rois[:, 3:5] * spatial_scale
    if not aligned:
        size = size.clamp(min=1)
    angle = -rois[:, 5] if clockwise else rois[:, 5]
    if sampling_ratio > 0:
        ratios = torch.full_like(size, sampling_ratio, dtype=torch.long)
    else:
        ratios = (size / size.new_tensor(bins[::-1])).ceil().long().clamp(min=1)

    output = features.new_zeros(len(rois), features.shape[1], *bins)
    # RoIs of one image that take equally many samples are sampled together.
    groups = torch.cat([rois[:, :1].long(), ratios], 1)
    for group in groups.unique(dim=0):
        index = (groups == group).all(1).nonzero(as_tuple=True)[0]
        image, ratio_x, ratio_y = group.tolist()
        x, y = _sample_points(
            centre[index], size[index], angle[index], bins, (ratio_y, ratio_x))
        samples = _bilinear(features[image].to(dtype), x, y)
        pooled = F.avg_pool2d(samples, (ratio_y, ratio_x))
        output = output.index_copy(0, index, pooled.to(output.dtype))
    return output


def _sample_points(centre: Tensor, size: Tensor, angle: Tensor, bins: tuple[int, int],
                   ratio: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sample positions x, y in feature pixels, each ``(N, bins_h * ratio_h, bins_w * ratio_w)``."""
    def offsets(n: int) -> Tensor:
        return (torch.arange(n, dtype=size.dtype, device=size.device) + 0.5) / n - 0.5
    u = offsets(bins[1] * ratio[1])[None, None, :] * size[:, 0, None, None]
    v = offsets(bins[0] * ratio[0])[None, :, None] * size[:, 1, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    # theta turns counter-clockwise on screen here, where y points down
    return (u * cos + v * sin + centre[:, 0, None, None],
            v * cos - u * sin + centre[:, 1, None, None])


def _bilinear(feature: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample ``(C, H, W)`` at ``(N, h, w)`` points -> ``(N, C, h, w)``.

    A point up to one pixel outside takes the border's value, one further out is 0.
    """
    height, width = feature.shape[1:]
    inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    num, rows, columns = x.shape
    samples = F.grid_sample(feature[None], grid.view(1, num * rows, columns, 2), mode='bilinear',
                            padding_mode='border', align_corners=True)
    samples = samples.view(-1, num, rows, columns) * inside
    return samples.transpose(0, 1)
