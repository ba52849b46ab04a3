"""Vision Transformer with rotated varied-size window attention: the MTP encoder.

Module and parameter names are those of the released checkpoints, so that an official state dict
loads as it is.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, PatchEmbed, trunc_normal_
from torch import Tensor, nn

from mtp.models.backbones.attention import FullAttention, RotatedWindowAttention
from mtp.models.backbones.base import (
    BackboneBase,
    StochasticDepth,
    add_branch,
    dtype_of_products,
)
from mtp.models.recomputation import recomputed
from mtp.ops.deterministic import bicubic
from mtp.registry import MODELS


def resize_position_embedding(
    positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]
) -> Tensor:
    """Resize absolute positions from one token grid to another.

    The resizing is bicubic (``align_corners=False``), in float32 or wider. Equal grids give back
    ``positions`` itself.

    Args:
        positions: position embeddings, ``(1, H * W, C)``.
        grid: height and width ``(H, W)`` of the grid of ``positions``, tokens.
        new_grid: height and width ``(H_new, W_new)`` of the resized grid, tokens.

    Returns:
        Tensor: ``(1, H_new * W_new, C)``, of the dtype of ``positions``.
    """
    if tuple(grid) == tuple(new_grid):
        return positions
    image = positions.to(torch.promote_types(positions.dtype, torch.float32))
    image = image.transpose(1, 2).unflatten(2, grid)
    image = bicubic(image, new_grid)
    return image.flatten(2).transpose(1, 2).to(positions.dtype)


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each with an optional layer scale.

    Args:
        dim: channels of a token.
        attn: attention module.
        mlp_ratio: ratio of the MLP's hidden channels to ``dim``.
        init_values: initial layer scale; ``None`` for no layer scale.
    """

    def __init__(
        self,
        dim: int,
        attn: FullAttention | RotatedWindowAttention,
        mlp_ratio: float,
        init_values: float | None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.gamma_1 = self.gamma_2 = None
        if init_values is not None:
            self.gamma_1 = nn.Parameter(torch.full((dim,), float(init_values)))
            self.gamma_2 = nn.Parameter(torch.full((dim,), float(init_values)))

    def forward(
        self,
        x: Tensor,
        H: int,
        W: int,
        factors: Tensor | None = None,
        copy_dtype: torch.dtype | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Add both branches to tokens.

        Args:
            x: tokens of an ``H x W`` grid, ``(B, H * W, C)``.
            H: height of the grid, tokens.
            W: width of the grid, tokens.
            factors: factors of the branches, see :class:`StochasticDepth`.
            copy_dtype: dtype of a copy of the result, which compiled code writes in the same
                kernel; None for no copy.

        Returns:
            Tensor: tokens, the shape of ``x``; with a copy, a tuple of both.
        """
        attn_factors, mlp_factors = (None, None) if factors is None else factors
        attn = self.attn(self.norm1(x), H, W)
        x = add_branch(x, attn if self.gamma_1 is None else self.gamma_1 * attn, attn_factors)
        mlp = self.mlp(self.norm2(x))
        x = add_branch(x, mlp if self.gamma_2 is None else self.gamma_2 * mlp, mlp_factors)
        return x if copy_dtype is None else (x, x.to(copy_dtype))


class PatchProjection(nn.Conv2d):
    """Convolution of patches whose pixels are given as rows, as its weights are laid out."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class PatchProduct(PatchEmbed):
    """timm's ``PatchEmbed`` as a product with its bias, which a convolution adds in a launch more.

    Args:
        patch_size: side of a patch, pixels.
        in_chans: number of channels of the images.
        embed_dim: number of channels of the tokens.
    """

    compiled_methods = ('patches',)

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__(None, patch_size, in_chans, embed_dim)
        self.proj.__class__ = PatchProjection

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, in_chans, height, width)`` to tokens ``(B, H, W, embed_dim)``."""
        return self.proj(self.patches(x))

    def patches(self, x: Tensor) -> Tensor:
        """Return the pixels of each patch of an image, in the dtype that products take.

        Args:
            x: images ``(B, in_chans, height, width)``.

        Returns:
            Tensor: ``(B, H, W, in_chans * patch_size ** 2)``; 0 outside the image.
        """
        height, width = self.patch_size
        x = F.pad(x, (0, -x.shape[3] % width, 0, -x.shape[2] % height))
        x = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).to(dtype_of_products(x))


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of a ``(B, C, H, W)`` map, its key with ``ln`` as released."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class ViTRVSA(BackboneBase):
    """Plain ViT in which most blocks attend in rotated varied-size windows.

    Block ``i`` (from 0) attends to the whole grid when ``(i + 1) % interval == 0``, else in
    windows. Images of any size are taken: a side that is no multiple of ``patch_size`` is padded
    with zeros at the right or bottom. If the token grid is not that of ``img_size``, the absolute
    positions and the relative tables are resized (bicubic) at run time. Those of a state dict for
    another image size are resized when it is loaded.

    Sources: RVSA, arXiv:2208.03987; MTP, arXiv:2403.13430.

    Args:
        img_size: side, or (height, width), of the images that position tables are made for,
            pixels.
        patch_size: side of a patch, pixels.
        in_chans: number of bands of the images.
        embed_dim: channels ``C`` of a token and of each map.
        depth: number of blocks.
        num_heads: number of heads of every attention, a divisor of ``embed_dim``.
        mlp_ratio: ratio of an MLP's hidden channels to ``embed_dim``.
        qkv_bias: whether query, key and value projections have biases.
        drop_path_rate: stochastic depth rate of the last block, 0..1; the rates of the blocks rise
            linearly from 0.
        interval: distance between blocks with full attention; 1 makes a plain ViT.
        out_indices: indices of the four blocks whose outputs make the maps, ascending, the last
            block last.
        window_size: side of an RVSA window, tokens.
        relative_position: whether full attention has relative tables (that of the released
            detectors does not).
        pyramid: whether the maps have strides 1/4, 1/2, 1 and 2 times ``patch_size``. Otherwise
            they are the outputs of the four blocks, all at stride ``patch_size`` (classification,
            change detection). The pyramid's layers then remain, frozen, because the released state
            dicts hold them.
        final_norm: whether to hold the final LayerNorm, frozen and never used in ``forward``. The
            released state dicts of pretraining, classification and change detection hold it, those
            of segmentation and detection do not.
        init_values: initial layer scale; ``None`` for none, as in all released models.
        with_cp: whether to recompute the blocks' activations in the backward pass, to save memory.
        frozen_stages: stages that are not trained and stay in evaluation mode: -1 for none; 0 for
            patch embedding and positions; ``k`` for these and the first ``k`` blocks.
        init_cfg: initial checkpoint, ``dict(type='Pretrained', checkpoint=PATH)``, loaded by
            ``init_weights()``; ``PATH`` is any file that
            :func:`mtp.models.weights.loading.load_backbone_checkpoint` reads.

    Attributes:
        out_channels: numbers of channels of the four maps.
        strides: strides of the four maps, pixels.
        num_layers: number of blocks.

    Raises:
        ValueError: an argument is out of range; in ``forward``, an image is too small for the
            pyramid.
    """

    blocks: Sequence[Block]
    first_conv = 'patch_embed.proj'
    compiled_methods = ('activate',)

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        interval: int = 3,
        out_indices: Sequence[int] = (3, 5, 7, 11),
        window_size: int = 7,
        relative_position: bool = True,
        pyramid: bool = True,
        final_norm: bool = True,
        init_values: float | None = None,
        with_cp: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        _check(patch_size, depth, interval, out_indices, pyramid, frozen_stages)
        super().__init__(init_cfg, in_chans)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid = (math.ceil(height / patch_size), math.ceil(width / patch_size))
        self.out_indices = tuple(out_indices)
        self.pyramid = pyramid
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        self.num_layers = depth
        self.out_channels = (embed_dim,) * 4
        self.strides = (
            (patch_size // 4, patch_size // 2, patch_size, patch_size * 2)
            if pyramid
            else (patch_size,) * 4
        )

        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid), embed_dim))
        self.register_load_state_dict_pre_hook(_resize_positions_on_load)
        self.patch_embed = PatchProduct(patch_size, in_chans, embed_dim)
        blocks = []
        for i in range(depth):
            attn: FullAttention | RotatedWindowAttention
            if (i + 1) % interval == 0:
                attn = FullAttention(embed_dim, num_heads, self.grid, qkv_bias, relative_position)
            else:
                attn = RotatedWindowAttention(embed_dim, num_heads, window_size, qkv_bias)
            blocks.append(Block(embed_dim, attn, mlp_ratio, init_values))
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]  # it is not generic
        self.drop_path = StochasticDepth(
            [
                drop_path_rate * i / max(1, depth - 1) if i >= frozen_stages else 0.0
                for i in range(depth)
            ]
        )
        if final_norm:
            self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2),
            ChannelLayerNorm(embed_dim),
            nn.GELU(),
            nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(embed_dim, embed_dim, 2, stride=2))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2)

        self._reset_parameters()
        self._freeze()

    def _reset_parameters(self) -> None:
        trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for i, block in enumerate(self.blocks):
                # the residual stream sums 2 * (i + 1) branches up to here
                block.attn.proj.weight.div_(math.sqrt(2 * (i + 1)))
                block.mlp.fc2.weight.div_(math.sqrt(2 * (i + 1)))

    def frozen_modules(self) -> list[nn.Module]:
        """Return the patch embedding and the first blocks, as ``frozen_stages`` says."""
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.blocks[: self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self.frozen_modules():
            module.requires_grad_(False).eval()
        self.pos_embed.requires_grad_(self.frozen_stages < 0)
        # No forward uses these: DistributedDataParallel would wait for their gradients.
        if hasattr(self, 'norm'):
            self.norm.requires_grad_(False)
        if not self.pyramid:
            self.fpn1.requires_grad_(False)
            self.fpn2.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_chans, height, width)`` to four maps ``(B, C, h, w)``.

        Under autocast, the first three of a pyramid have its dtype.
        """
        x = self.patch_embed(x)
        H, W = x.shape[1:3]
        if self.pyramid and min(H, W) < 2:
            raise ValueError(
                f'the image is too small: {H} x {W} patches leave nothing at stride '
                f'{self.strides[-1]}; give each side more than {self.strides[-2]} pixels'
            )
        x = x.flatten(1, 2) + resize_position_embedding(self.pos_embed, self.grid, (H, W))
        dtype = dtype_of_products(x)
        copied = self.out_indices[:3] if self.pyramid and dtype != x.dtype else ()
        taps = []
        for i, (block, factors) in enumerate(zip(self.blocks, self.drop_path(x.shape[0]))):
            arguments = x, H, W, factors, dtype if i in copied else None
            x = recomputed(block, *arguments) if self.with_cp else block(*arguments)
            x, tap = x if i in copied else (x, x)
            if i in self.out_indices:
                taps.append(tap.transpose(1, 2).unflatten(2, (H, W)))
        if not self.pyramid:
            return tuple(taps)
        finest = self.fpn1[0](taps[0])
        finest = recomputed(self._enlarge, finest) if self.training else self._enlarge(finest)
        return finest, self.fpn2(taps[1]), self.fpn3(taps[2]), self.fpn4(taps[3])

    def _enlarge(self, x: Tensor) -> Tensor:
        """Do the rest of ``fpn1``, whose norm and GELU cost too little to keep their results."""
        return self.fpn1[3](self.activate(x))

    def activate(self, x: Tensor) -> Tensor:
        """Normalise and activate a map ``(B, C, h, w)``, in float32 or wider; keep its dtype."""
        _, norm, gelu, _ = self.fpn1
        return gelu(norm(x)).to(x.dtype)

    def compiled_parts(self) -> list[nn.Module]:
        """Return the blocks."""
        return [*self.blocks]

    def layer_id(self, name: str) -> int:
        """Return the depth of a parameter for layer-wise decay, by its name in the backbone.

        It is 0 for patch embedding and positions, ``k + 1`` for block ``k``, and
        ``num_layers + 1`` for the rest.
        """
        if name.startswith(('pos_embed', 'patch_embed')):
            return 0
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1
        return self.num_layers + 1

    def no_weight_decay(self, name: str, param: Tensor) -> bool:
        """Return whether a parameter of the whole model is exempt from weight decay."""
        return param.dim() == 1 or name.endswith('.bias') or 'pos_embed' in name


def _check(
    patch_size: int,
    depth: int,
    interval: int,
    out_indices: Sequence[int],
    pyramid: bool,
    frozen_stages: int,
) -> None:
    if pyramid and patch_size % 4:
        raise ValueError(f'patch_size={patch_size}: the pyramid needs a multiple of 4')
    if interval < 1:
        raise ValueError(f'interval={interval}: must be at least 1 (full attention everywhere)')
    taps = list(out_indices)
    if len(taps) != 4 or taps != sorted(set(taps)) or taps[0] < 0 or taps[-1] != depth - 1:
        raise ValueError(
            f'out_indices={tuple(taps)}: give four ascending block indices that end at the last '
            f'block, {depth - 1}; blocks after the last map would never be trained'
        )
    if not -1 <= frozen_stages <= depth:
        raise ValueError(f'frozen_stages={frozen_stages}: must be -1 to {depth}, the depth')


def _resize_positions_on_load(
    module: ViTRVSA, state_dict: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Drop the class token's row and resize a table of another image size."""
    key = prefix + 'pos_embed'
    if key not in state_dict or state_dict[key].dim() != 3:
        return
    positions = state_dict[key]
    if prefix + 'cls_token' in state_dict:
        positions = positions[:, 1:]
    rows = positions.shape[1]
    if rows != module.pos_embed.shape[1]:
        side = math.isqrt(rows)
        if side * side != rows:
            raise ValueError(
                f"{key} has {rows} rows, which is no square grid and not the model's "
                f'{module.grid[0]} x {module.grid[1]}: build the model with the img_size that '
                'the checkpoint was made with, other sizes are handled at run time'
            )
        positions = resize_position_embedding(positions, (side, side), module.grid)
    state_dict[key] = positions
