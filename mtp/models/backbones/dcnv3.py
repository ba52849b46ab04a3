"""The deformable convolution module of InternImage (DCNv3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtp.ops.deform_conv import dcnv3


class Permute(nn.Module):
    """Layer that reorders the axes of a tensor, as a view."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


def to_channels_last() -> Permute:
    """Return a layer from ``(B, C, H, W)`` to ``(B, H, W, C)``."""
    return Permute(0, 2, 3, 1)


def to_channels_first() -> Permute:
    """Return a layer from ``(B, H, W, C)`` to ``(B, C, H, W)``."""
    return Permute(0, 3, 1, 2)


class DCNv3(nn.Module):
    """Deformable convolution whose offsets and tap weights come from a depthwise convolution.

    Source: InternImage, arXiv:2211.05778; see :func:`mtp.ops.deform_conv.dcnv3`. Parameter names
    are those of the released checkpoints.

    Args:
        channels: number of channels ``C`` of input and output.
        kernel_size: side of the sampled kernel, odd.
        dw_kernel_size: side of the depthwise kernel, odd; ``None`` for ``kernel_size``.
        group: number of channel groups, each with sampling positions of its own; a divisor of
            ``channels``.
        offset_scale: factor of the kernel's regular positions and of the offsets.
        norm_layer: norm of the depthwise branch, ``'LN'`` or ``'BN'``.
        act_layer: activation of the depthwise branch.
        center_feature_scale: whether each group mixes the sampled values with those at the
            position itself, by a learned share.
        remove_center: whether the kernel omits its middle position.

    Raises:
        ValueError: ``group`` does not divide ``channels``, a kernel size is even, or the norm is
            another one.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        group: int = 4,
        offset_scale: float = 1.0,
        norm_layer: str = 'LN',
        act_layer: type[nn.Module] = nn.GELU,
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ) -> None:
        super().__init__()
        dw_kernel_size = dw_kernel_size or kernel_size
        if channels % group:
            raise ValueError(f'channels={channels} must be a multiple of group={group}')
        for name, size in (('kernel_size', kernel_size), ('dw_kernel_size', dw_kernel_size)):
            if size % 2 == 0:
                raise ValueError(f'{name}={size}: must be odd, so that it has a middle')
        norms = {
            'LN': (to_channels_last(), nn.LayerNorm(channels, eps=1e-6)),
            'BN': (nn.BatchNorm2d(channels), to_channels_last()),
        }
        if norm_layer not in norms:
            raise ValueError(f"norm_layer={norm_layer!r}: must be 'LN' or 'BN'")
        self.kernel_size = kernel_size
        self.group = group
        self.offset_scale = offset_scale
        self.center_feature_scale = center_feature_scale
        self.remove_center = remove_center

        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(group))
        self.dw_conv = nn.Sequential(
            nn.Conv2d(
                channels, channels, dw_kernel_size, padding=dw_kernel_size // 2, groups=channels
            ),
            nn.Sequential(*norms[norm_layer]),
            act_layer(),
        )
        taps = kernel_size**2 - remove_center
        self.offset = nn.Linear(channels, group * taps * 2)
        self.mask = nn.Linear(channels, group * taps)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset to regular positions of equal weight and Xavier-uniform projections."""
        for linear in (self.offset, self.mask):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, H, W, C)``; return the same shape."""
        values = self.input_proj(x)
        z = self.dw_conv(x.permute(0, 3, 1, 2))
        offset = self.offset(z)
        mask = self.mask(z).unflatten(3, (self.group, -1)).softmax(-1).flatten(3)
        out = dcnv3(
            values,
            offset,
            mask,
            self.kernel_size,
            stride=1,
            pad=self.kernel_size // 2,
            dilation=1,
            group=self.group,
            group_channels=x.shape[-1] // self.group,
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
        )
        if self.center_feature_scale:
            share = (
                F.linear(
                    z, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
                )
                .sigmoid()
                .unsqueeze(-1)
            )
            out, values = (t.unflatten(3, (self.group, -1)) for t in (out, values))
            out = (out * (1 - share) + values * share).flatten(3)
        return self.output_proj(out)
