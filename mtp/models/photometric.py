"""Photometric distortion of a whole batch on the device, equal to mmseg's for single images."""

import torch
from torch import Tensor


def distort(images: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image by the amounts drawn for it.

    Each step yields integers 0..255, as in mmseg's ``PhotoMetricDistortion`` on uint8 images. The
    arithmetic is that of OpenCV's 8-bit HSV (hue 0..179); converted back from HSV, one value in
    500 differs by 1.

    Args:
        images: BGR images, uint8 ``(B, 3, H, W)``.
        draws: brightness offset, early contrast factor, saturation factor, hue offset (180 to the
            circle) and late contrast factor, float32 ``(B, 5)``; NaN where a step is skipped.

    Returns:
        Tensor: float32 ``(B, 3, H, W)``, BGR, integers 0..255.
    """
    brightness, early, saturation, hue, late = draws[:, :, None, None, None].unbind(1)
    images = _scale(images.float(), 1, brightness.nan_to_num(0))
    images = _scale(images, early.nan_to_num(1), 0)
    h, s, v = _to_hsv(images)
    saturated = _to_bgr(h, _scale(s, saturation.nan_to_num(1), 0), v)
    images = torch.where(saturation.isnan(), images, saturated)
    h, s, v = _to_hsv(images)
    turned = _to_bgr(torch.remainder(h + hue.nan_to_num(0), 180), s, v)
    images = torch.where(hue.isnan(), images, turned)
    return _scale(images, late.nan_to_num(1), 0)


def _scale(images: Tensor, factor: Tensor | int, offset: Tensor | int) -> Tensor:
    return (images * factor + offset).clamp(0, 255).floor()


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert BGR to hue 0..179, saturation and value 0..255, float32 ``(B, 1, H, W)`` each."""
    b, g, r = images.split(1, 1)
    v = images.amax(1, keepdim=True)
    diff = v - images.amin(1, keepdim=True)
    # 12-bit fixed point, since the products do not fit float32
    s = _fixed(diff, (255 << 12) / v.clamp(min=1))
    h = torch.where(v == r, g - b, torch.where(v == g, b - r + 2 * diff, r - g + 4 * diff))
    h = _fixed(h, (180 << 12) / (6 * diff.clamp(min=1)))
    return torch.where(h < 0, h + 180, h), s, v


def _fixed(value: Tensor, factor: Tensor) -> Tensor:
    return ((value.int() * factor.round().int() + (1 << 11)) >> 12).float()


def _to_bgr(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    h, s, v = h * (6 / 180), s * (1 / 255), v * (1 / 255)
    channels = []
    for sector in (1, 3, 5):  # b, g, r; source: Wikipedia, HSL and HSV, alternative conversion
        k = torch.remainder(h + sector, 6)
        channels.append(v * (1 - s * torch.minimum(k, 4 - k).clamp(0, 1)))
    return (torch.cat(channels, 1) * 255).floor()  # OpenCV truncates here, too
