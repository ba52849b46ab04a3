"""The two attention modules of the MTP encoders.

Both take tokens ``(B, H * W, dim)`` in row-major order, and the height and width of their grid.
Parameter names are those of the released checkpoints.
"""

from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from mtp.ops.relative_position import relative_position_attention, resize_relative_table
from mtp.ops.rotated_window import rotated_window_attention
from mtp.ops.window_operands import window_operands


def _head_channels(dim: int, num_heads: int) -> int:
    if dim % num_heads:
        raise ValueError(f'dim={dim} must be a multiple of num_heads={num_heads}')
    return dim // num_heads


class FullAttention(nn.Module):
    """Multi-head self-attention over all tokens, optionally with decomposed relative positions.

    As released, both tables have ``2 * H - 1`` rows, where ``H`` is the *height* of the grid that
    the module is built for; of the column table, the first ``2 * min(H, W) - 1`` rows are used. A
    grid that needs another number of rows has them resized (bicubic) at run time. Tables of
    another length in a state dict are resized when it is loaded.

    Source: MViTv2's decomposed relative positions, see
    :func:`mtp.ops.relative_position.relative_position_attention`.

    Args:
        dim: channels of a token.
        num_heads: number of heads, a divisor of ``dim``.
        grid: height and width ``(H, W)`` of the grid that the tables are made for, tokens.
        qkv_bias: whether the query, key and value projection has a bias.
        relative_position: whether the module has tables (those of the released detectors do not).

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: tuple[int, int],
        qkv_bias: bool = True,
        relative_position: bool = True,
    ) -> None:
        super().__init__()
        channels = _head_channels(dim, num_heads)
        self.num_heads = num_heads
        self.grid = grid
        self.relative_position = relative_position
        if relative_position:
            rows = 2 * grid[0] - 1
            self.full_attn_rel_pos_h = nn.Parameter(torch.zeros(rows, channels))
            self.full_attn_rel_pos_w = nn.Parameter(torch.zeros(rows, channels))
            self.register_load_state_dict_pre_hook(_resize_tables_on_load)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        """Attend over tokens ``(B, H * W, dim)`` of an ``H x W`` grid; return the same shape."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        if self.relative_position:
            columns = self.full_attn_rel_pos_w[: 2 * min(self.grid) - 1]
            out = relative_position_attention(
                qkv,
                resize_relative_table(self.full_attn_rel_pos_h, 2 * H - 1),
                resize_relative_table(columns, 2 * W - 1),
            )
        else:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(out.flatten(2))


def _resize_tables_on_load(
    module: FullAttention, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    for name in ('full_attn_rel_pos_h', 'full_attn_rel_pos_w'):
        table = state_dict.get(prefix + name)
        if table is not None and table.dim() == 2:
            rows = getattr(module, name).shape[0]
            state_dict[prefix + name] = resize_relative_table(table, rows)


class _WindowMap(nn.Conv2d):
    """1x1 convolution whose weights :func:`mtp.ops.window_operands` reads in float32."""


def _affine_map(regressor: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a regressor of windows; its other layers have no parameters."""
    layer = cast(_WindowMap, regressor[2])
    return layer.weight, cast(Tensor, layer.bias)


class RotatedWindowAttention(nn.Module):
    """Rotated varied-size window attention (RVSA).

    Queries attend within their window; the keys and values of each head come from a window whose
    offset, scale and angle are regressed from the mean of the window's tokens.

    Source: arXiv:2208.03987, see :func:`mtp.ops.rotated_window.rotated_window_attention`.

    Args:
        dim: channels of a token.
        num_heads: number of heads, a divisor of ``dim``.
        window_size: side of a window, tokens, at least 2.
        qkv_bias: whether the query, key and value projection has a bias.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``, or ``window_size`` is below 2.
    """

    relative_position_index: Tensor

    def __init__(
        self, dim: int, num_heads: int, window_size: int = 7, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        if window_size < 2:
            raise ValueError(f'window_size={window_size}: a window needs 2 x 2 tokens or more')
        channels = _head_channels(dim, num_heads)
        self.num_heads = num_heads
        self.window_size = window_size

        span = 2 * window_size - 1
        self.rel_pos_h = nn.Parameter(torch.zeros(span, channels))
        self.rel_pos_w = nn.Parameter(torch.zeros(span, channels))
        self.relative_position_bias_table = nn.Parameter(torch.empty(span**2, num_heads))
        trunc_normal_(self.relative_position_bias_table, std=0.02)

        # The operator knows the order of the table; the released state dicts hold this.
        index = torch.arange(window_size)
        # from key k to query i, shifted to start at 0
        offset = index[:, None] - index + window_size - 1
        self.register_buffer(
            'relative_position_index',
            (offset[:, None, :, None] * span + offset[None, :, None, :]).reshape(
                window_size**2, window_size**2
            ),
        )

        self.sampling_offsets = self._regressor(dim, 2 * num_heads)
        self.sampling_scales = self._regressor(dim, 2 * num_heads)
        self.sampling_angles = self._regressor(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def _regressor(self, dim: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.AvgPool2d(self.window_size), nn.LeakyReLU(), _WindowMap(dim, out_channels, 1)
        )

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        """Attend over tokens ``(B, H * W, dim)`` of an ``H x W`` grid; return the same shape."""
        qkv = self.qkv(x).unflatten(1, (H, W)).unflatten(3, (3, self.num_heads, -1))
        offsets, scales, angles, bias = window_operands(
            x,
            (H, W),
            self.window_size,
            *_affine_map(self.sampling_offsets),
            *_affine_map(self.sampling_scales),
            *_affine_map(self.sampling_angles),
            self.relative_position_bias_table,
        )
        out = rotated_window_attention(
            qkv, offsets, scales, angles, self.rel_pos_h, self.rel_pos_w, bias
        )
        return self.proj(out.flatten(3).flatten(1, 2))
