"""The operators as written in the paper's code and in usual Python versions.

They are for comparison, never for training: all intermediate tensors reach memory, coordinates are
made on the host, biases are materialised. Arguments and results are those of :mod:`mtp.ops`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp.ops.rotated_window import window_padding


def window_operands(
    x: Tensor, grid: tuple[int, int], window_size: int, *parameters: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pad, then pool and map three times; gather the bias by an index."""
    *maps, bias_table = parameters
    padding = window_padding(grid, window_size)
    feature_map = F.pad(x.transpose(1, 2).unflatten(2, grid), padding)
    offsets, scales, angles = (
        F.conv2d(F.leaky_relu(F.avg_pool2d(feature_map, window_size)), weight, bias)
        for weight, bias in zip(maps[::2], maps[1::2])
    )
    place, span = torch.arange(window_size), 2 * window_size - 1
    offset = place[:, None] - place + window_size - 1
    index = offset[:, None, :, None] * span + offset[:, None, :]
    bias = bias_table[index.reshape(2 * [window_size**2]).to(x.device)]
    heads = (bias_table.shape[1], 2)
    return (
        offsets.unflatten(1, heads),
        scales.unflatten(1, heads),
        angles,
        bias.permute(2, 0, 1),
    )


def rotated_window_attention(
    qkv: Tensor,
    offsets: Tensor,
    scales: Tensor,
    angles: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    bias: Tensor,
) -> Tensor:
    """Sample keys and values by ``grid_sample``, permute, add a bias of windows x keys x keys."""
    q, k, v = qkv.unbind(3)
    batch, height, width, heads, channels = q.shape
    size = (len(rel_pos_h) + 1) // 2
    n_h, n_w = angles.shape[-2:]
    down, across = n_h * size - height, n_w * size - width
    top, left = down // 2, across // 2
    padding = (0, 0, 0, 0, left, across - left, top, down - top)
    q, k, v = (F.pad(t, padding) for t in (q, k, v))

    # On the host, as in the paper's code; each copy to the device waits for it.
    ys, xs = (torch.linspace(-1, 1, n * size).to(q.device) for n in (n_h, n_w))
    centre_y = ys.view(n_h, size).mean(1)[:, None, None, None]
    centre_x = xs.view(n_w, size).mean(1)[:, None]
    local_y = ys.view(n_h, size)[..., None, None] - centre_y
    local_x = xs.view(n_w, size) - centre_x
    offset_x, offset_y = offsets[..., None, :, None].unbind(2)
    scale_x, scale_y = scales[..., None, :, None].unbind(2)
    angle = angles[..., None, :, None]
    x, y = local_x * (1 + scale_x), local_y * (1 + scale_y)
    grid = torch.stack(
        [
            centre_x + offset_x / max(1, height // size) + x * angle.cos() - y * angle.sin(),
            centre_y + offset_y / max(1, width // size) + x * angle.sin() + y * angle.cos(),
        ],
        -1,
    )
    grid = grid.reshape(batch * heads, n_h * size, n_w * size, 2)

    def windows(t: Tensor) -> Tensor:
        t = t.reshape(batch, heads, channels, n_h, size, n_w, size)
        return t.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, heads, size * size, channels)

    maps = [
        t.permute(0, 3, 4, 1, 2).reshape(batch * heads, channels, n_h * size, n_w * size)
        for t in (q, k, v)
    ]
    sampled = [F.grid_sample(t.to(grid.dtype), grid, align_corners=True) for t in maps[1:]]
    q, k, v = windows(maps[0]), *(windows(t.to(q.dtype)) for t in sampled)
    logits = (q * channels**-0.5) @ k.transpose(-2, -1)
    logits = _add_relative(logits, q, rel_pos_h, rel_pos_w) + bias
    out = logits.softmax(-1).to(v.dtype) @ v
    out = out.reshape(batch, n_h, n_w, heads, size, size, channels)
    out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, n_h * size, n_w * size, heads, channels)
    return out[:, top : top + height, left : left + width]


def relative_position_attention(qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """Compute attention with N x N logits and bias in memory."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    q = q * q.shape[-1] ** -0.5
    logits = _add_relative(q @ k.transpose(-2, -1), q, rel_pos_h, rel_pos_w)
    return (logits.softmax(-1).to(v.dtype) @ v).transpose(1, 2)


def _add_relative(logits: Tensor, q: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    height, width = (len(rel_pos_h) + 1) // 2, (len(rel_pos_w) + 1) // 2
    row, column = (torch.arange(side) for side in (height, width))
    table_h = rel_pos_h[(row[:, None] - row + height - 1).to(q.device)]
    table_w = rel_pos_w[(column[:, None] - column + width - 1).to(q.device)]
    q = q.unflatten(2, (height, width))
    term_h = torch.einsum('bhijc,ikc->bhijk', q, table_h)
    term_w = torch.einsum('bhijc,jkc->bhijk', q, table_w)
    logits = logits.unflatten(3, (height, width)).unflatten(2, (height, width))
    return (logits + term_h[..., None] + term_w[..., None, :]).flatten(4).flatten(2, 3)


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int,
    stride: int,
    pad: int,
    dilation: int,
    group: int,
    group_channels: int,
    offset_scale: float,
) -> Tensor:
    """Pad, compute positions, sample all taps by one ``grid_sample``, multiply and sum."""
    images, _, _, channels = input.shape
    rows, columns = offset.shape[1:3]
    taps = kernel_size**2
    input = F.pad(input, (0, 0, pad, pad, pad, pad))
    height, width = input.shape[1:3]
    middle = dilation * (kernel_size - 1) // 2
    y, x = torch.meshgrid(
        *(
            torch.arange(n, dtype=torch.float32, device=input.device) * stride + middle + 0.5
            for n in (rows, columns)
        ),
        indexing='ij',
    )
    centre = torch.stack([x / width, y / height], -1).reshape(1, rows, columns, 1, 2)
    tap = torch.arange(kernel_size, dtype=torch.float32, device=input.device) * dilation - middle
    tap_x, tap_y = torch.meshgrid(tap / width, tap / height, indexing='ij')
    taps_at = torch.stack([tap_x, tap_y], -1).reshape(-1, 2).repeat(group, 1)
    spread = torch.tensor([width, height], device=input.device).repeat(group * taps).to(offset)
    places = centre + (taps_at * offset_scale).reshape(1, 1, 1, -1, 2)
    places = places.repeat(images, 1, 1, 1, 1).flatten(3) + offset * offset_scale / spread
    grid = (2 * places - 1).reshape(images, rows * columns, group, taps, 2)
    grid = grid.transpose(1, 2).flatten(0, 1)
    maps = input.reshape(images, height * width, channels).transpose(1, 2)
    maps = maps.reshape(images * group, group_channels, height, width)
    sampled = F.grid_sample(maps.to(grid.dtype), grid, align_corners=False)
    mask = mask.reshape(images, rows * columns, group, taps).transpose(1, 2)
    mask = mask.reshape(images * group, 1, rows * columns, taps)
    out = (sampled * mask).sum(-1).view(images, channels, rows * columns)
    return out.transpose(1, 2).reshape(images, rows, columns, channels).to(input.dtype)


def roi_align_rotated(
    features: Tensor, rois: Tensor, bins: int, spatial_scale: float, samples: int
) -> Tensor:
    """Gather, weight and average the four corners of every sample (aligned, clockwise)."""
    channels, height, width = features.shape[1:]
    centre, size = rois[:, 1:3] * spatial_scale - 0.5, rois[:, 3:5] * spatial_scale
    steps = (torch.arange(bins * samples, device=rois.device) + 0.5) / (bins * samples) - 0.5
    v, u = (steps * side[:, None] for side in (size[:, 1], size[:, 0]))
    u, v = u[:, None, :], v[:, :, None]
    cos, sin = (f(-rois[:, 5])[:, None, None] for f in (torch.cos, torch.sin))
    x = u * cos + v * sin + centre[:, 0, None, None]
    y = v * cos - u * sin + centre[:, 1, None, None]
    inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.long(), y.long()
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    first = (rois[:, 0].long() * height * width)[:, None, None]
    total = 0
    for column, across in ((left, 1 - (x - left)), ((left + 1).clamp(max=width - 1), x - left)):
        for row, down in ((top, 1 - (y - top)), ((top + 1).clamp(max=height - 1), y - top)):
            total = (
                total + table[first + row * width + column] * (across * down * inside)[..., None]
            )
    total = total.unflatten(2, (bins, samples)).unflatten(1, (bins, samples)).mean((2, 4))
    return total.permute(0, 3, 1, 2).to(features.dtype)


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Collect corners inside the other box and edge crossings; sort by angle; apply shoelace."""
    first, second = boxes1[:, None].expand(-1, len(boxes2), -1), boxes2.expand(len(boxes1), -1, -1)
    a, b = _corners(first), _corners(second)
    inside_a, inside_b = _inside(a, second), _inside(b, first)
    p, q = a[..., :, None, :], b[..., None, :, :]
    r, s = (torch.roll(c, -1, -2) - c for c in (a, b))
    r, s = r[..., :, None, :], s[..., None, :, :]
    cross = r[..., 0] * s[..., 1] - r[..., 1] * s[..., 0]
    gap = q - p
    t = (gap[..., 0] * s[..., 1] - gap[..., 1] * s[..., 0]) / cross
    u = (gap[..., 0] * r[..., 1] - gap[..., 1] * r[..., 0]) / cross
    meets = (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1) & (cross != 0)
    points = torch.cat([a, b, (p + t[..., None] * r).flatten(-3, -2)], -2)
    valid = torch.cat([inside_a, inside_b, meets.flatten(-2)], -1)
    points = torch.where(valid[..., None], points, 0)
    middle = points.sum(-2, keepdim=True) / valid.sum(-1).clamp(min=1)[..., None, None]
    points = points - middle
    angle = torch.atan2(points[..., 1], points[..., 0]).masked_fill(~valid, 9)
    order = angle.argsort(-1)
    points = points.gather(-2, order[..., None].expand_as(points))
    valid = valid.gather(-1, order)
    points = torch.where(valid[..., None], points, points[..., :1, :])  # closes the polygon
    after = points.roll(-1, -2)
    area = (points[..., 0] * after[..., 1] - points[..., 1] * after[..., 0]).sum(-1).abs() / 2
    return area / (first[..., 2] * first[..., 3] + second[..., 2] * second[..., 3] - area)


def _corners(boxes: Tensor) -> Tensor:
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    side = torch.stack([cos, sin], -1) * boxes[..., 2:3] / 2
    up = torch.stack([-sin, cos], -1) * boxes[..., 3:4] / 2
    return torch.stack([-side - up, side - up, side + up, up - side], -2) + boxes[..., None, :2]


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    x, y = (points - boxes[..., None, :2]).unbind(-1)
    cos, sin = boxes[..., 4:].cos(), boxes[..., 4:].sin()
    along, across = (x * cos + y * sin).abs(), (y * cos - x * sin).abs()
    return (along <= boxes[..., 2:3] / 2 + 1e-6) & (across <= boxes[..., 3:4] / 2 + 1e-6)


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Compute the N x N matrix of overlaps, then suppress box by box on the host."""
    order = scores.sort(descending=True).indices
    overlapping = (box_iou_rotated(boxes[order], boxes[order]) > iou_threshold).cpu()
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for number in range(len(boxes)):
        if alive[number]:
            kept.append(number)
            alive &= ~overlapping[number]
    return order[torch.tensor(kept, device=order.device)]


def sigmoid_focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Multiply binary cross-entropy of one-hot targets by the focal factor."""
    labels = F.one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    p = logits.sigmoid()
    wrong = (1 - p) * labels + p * (1 - labels)
    factor = (alpha * labels + (1 - alpha) * (1 - labels)) * wrong.pow(gamma)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction='none') * factor
