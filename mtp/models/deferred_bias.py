"""Convolutions whose bias is added together with something else.

On a GPU a convolution adds its bias in a launch of its own.
"""

from typing import cast

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mtp.ops import bias_relu


class DeferredBiasConv2d(nn.Conv2d):
    """Convolution that leaves its bias to the caller."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, None)


class RectifiedConv(ConvModule):
    """mmcv's ``ConvModule`` of a convolution with a bias and a ReLU, which take one launch."""

    def forward(self, x: Tensor) -> Tensor:
        return _rectified(self.conv(x), self.conv.bias)


class RectifiedConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution with a bias and a ReLU, which take one launch."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # of one output size
        padding = cast(tuple[int, ...], self.padding)
        sizes = self.stride, padding, self.output_padding, self.groups, self.dilation
        return _rectified(F.conv_transpose2d(x, self.weight, None, *sizes), self.bias)


def _rectified(x: Tensor, bias: Tensor | None) -> Tensor:
    """Add the bias of a convolution to its result and apply a ReLU."""
    assert bias is not None
    return bias_relu([x], bias).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
