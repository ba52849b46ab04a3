"""InternImage: a convolutional backbone of deformable convolutions.

Module and parameter names are those of the released checkpoints, so that an official state dict
loads as it is. Between the stem and the outputs, maps are ``(B, H, W, C)``.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from timm.layers import Mlp, trunc_normal_
from torch import Tensor, nn

from mtp.models.backbones.base import BackboneBase, StochasticDepth, add_branch
from mtp.models.backbones.dcnv3 import DCNv3, to_channels_first, to_channels_last
from mtp.models.recomputation import recomputed
from mtp.registry import MODELS


def _norm(channels: int, first: bool = False, first_after: bool = False) -> nn.Sequential:
    """Return a LayerNorm over channels, at the index in a Sequential that its released key has.

    Args:
        channels: number of channels.
        first: whether the input is ``(B, C, H, W)``, else ``(B, H, W, C)``.
        first_after: whether the output is ``(B, C, H, W)``, else ``(B, H, W, C)``.
    """
    layers: list[nn.Module] = [to_channels_last()] if first else []
    layers.append(nn.LayerNorm(channels, eps=1e-6))
    return nn.Sequential(*layers, *([to_channels_first()] if first_after else []))


class Stem(nn.Module):
    """Two convolutions of stride 2: ``(B, in_chans, H, W)`` -> ``(B, H / 4, W / 4, channels)``."""

    def __init__(self, in_chans: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, channels // 2, 3, stride=2, padding=1)
        self.norm1 = _norm(channels // 2, first=True, first_after=True)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = _norm(channels, first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))


class Downsample(nn.Module):
    """Convolution of stride 2: ``(B, H, W, C)`` -> ``(B, H / 2, W / 2, 2 * C)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = _norm(2 * channels, first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


class Block(nn.Module):
    """Residual block: deformable convolution, then MLP, ``(B, H, W, C)`` -> the same shape.

    Args:
        channels: number of channels ``C``.
        group, offset_scale, dw_kernel_size, center_feature_scale: arguments of :class:`DCNv3`.
        mlp_ratio, layer_scale, post_norm, res_post_norm: arguments of :class:`InternImage`.
    """

    def __init__(
        self,
        channels: int,
        group: int,
        offset_scale: float,
        dw_kernel_size: int | None,
        center_feature_scale: bool,
        mlp_ratio: float,
        layer_scale: float | None,
        post_norm: bool,
        res_post_norm: bool,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = _norm(channels)
        self.dcn = DCNv3(
            channels,
            dw_kernel_size=dw_kernel_size,
            group=group,
            offset_scale=offset_scale,
            center_feature_scale=center_feature_scale,
        )
        self.norm2 = _norm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.gamma1 = self.gamma2 = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((channels,), float(layer_scale)))
        self.res_post_norm1 = self.res_post_norm2 = None
        if res_post_norm:
            self.res_post_norm1 = _norm(channels)
            self.res_post_norm2 = _norm(channels)

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """Add both branches to ``(B, H, W, C)``; ``factors``: see :class:`StochasticDepth`."""
        dcn_factors, mlp_factors = (None, None) if factors is None else factors
        dcn = self._branch(x, self.dcn, self.norm1, self.res_post_norm1, self.gamma1)
        x = add_branch(x, dcn, dcn_factors)
        mlp = self._branch(x, self.mlp, self.norm2, self.res_post_norm2, self.gamma2)
        return add_branch(x, mlp, mlp_factors)

    def _branch(
        self,
        x: Tensor,
        layer: nn.Module,
        norm: nn.Module,
        res_norm: nn.Module | None,
        gamma: Tensor | None,
    ) -> Tensor:
        out = norm(layer(x)) if self.post_norm else layer(norm(x))
        if res_norm is not None:
            out = res_norm(out)
        return out if gamma is None else gamma * out


class Level(nn.Module):
    """The blocks of one resolution, with norms between and after them.

    Args:
        channels: number of channels ``C``.
        blocks: blocks of the level, in order.
        post_norm_block_ids: indices of the blocks that a norm follows.
        norm: whether a norm follows the last block.
        downsample: whether to hold the downsampling to the next level, which the backbone calls.
    """

    def __init__(
        self,
        channels: int,
        blocks: list[Block],
        post_norm_block_ids: Sequence[int],
        norm: bool,
        downsample: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.post_norm_block_ids = tuple(post_norm_block_ids)
        self.norm = _norm(channels) if norm else None
        if post_norm_block_ids:
            self.post_norms = nn.ModuleList(_norm(channels) for _ in post_norm_block_ids)
        self.downsample = Downsample(channels) if downsample else None

    def forward(self, x: Tensor, factors: Sequence[Tensor | None], with_cp: bool) -> Tensor:
        """Apply the blocks and norms, without the downsampling; return the shape of ``x``.

        Args:
            x: feature map, ``(B, H, W, C)``.
            factors: factors of each block, see :class:`StochasticDepth`.
            with_cp: whether to recompute the blocks' activations in the backward pass.
        """
        for i, (block, factors_i) in enumerate(zip(self.blocks, factors)):
            if with_cp:
                x = recomputed(block, x, factors_i)
            else:
                x = block(x, factors_i)
            if i in self.post_norm_block_ids:
                x = self.post_norms[self.post_norm_block_ids.index(i)](x)
        return x if self.norm is None else self.norm(x)


@MODELS.register_module()
class InternImage(BackboneBase):
    """Four levels of deformable-convolution blocks.

    Images of any size are taken: a map's side is the image's divided by its stride, rounded up.

    Sources: InternImage, arXiv:2211.05778; MTP, arXiv:2403.13430.

    Args:
        channels: number of channels ``C`` of the first level, even; it doubles with each level.
        in_chans: number of bands of the images.
        depths: number of blocks of the four levels.
        groups: numbers of groups of the deformable convolutions of the four levels, divisors of
            the level's channels.
        mlp_ratio: ratio of an MLP's hidden channels to the level's channels.
        drop_path_rate: stochastic depth rate of the last block, 0..1; the rates of the blocks rise
            linearly from 0.
        offset_scale: factor of the sampled kernel's regular positions and of its offsets.
        post_norm: whether to normalise the output of each branch instead of its input.
        res_post_norm: whether to normalise both (not with ``post_norm`` or ``layer_scale``).
        layer_scale: initial layer scale; ``None`` for no layer scale.
        level2_post_norm: whether level 2 has norms between its blocks.
        level2_post_norm_block_ids: indices of the blocks that these norms follow, ascending; empty
            without ``level2_post_norm``.
        center_feature_scale: whether the convolutions mix in the value at the position itself.
        dw_kernel_size: side of the depthwise kernel that offsets come from, odd; ``None`` for 3.
        out_indices: indices of the levels whose maps are returned, ascending, the last level last.
        with_cp: whether to recompute the blocks' activations in the backward pass, to save memory.
        frozen_stages: stages that are not trained and stay in evaluation mode: -1 for none; 0 for
            the stem; ``k`` for the stem and the first ``k`` levels.
        init_cfg: initial checkpoint, ``dict(type='Pretrained', checkpoint=PATH)``, loaded by
            ``init_weights()``; ``PATH`` is any file that
            :func:`mtp.models.weights.loading.load_backbone_checkpoint` reads.

    Attributes:
        out_channels: numbers of channels of the maps.
        strides: strides of the maps, pixels.
        num_layers: number of blocks.

    Raises:
        ValueError: an argument is out of range; in ``forward``, an image has no pixels.
    """

    levels: Sequence[Level]
    first_conv = 'patch_embed.conv1'

    def __init__(
        self,
        channels: int = 64,
        in_chans: int = 3,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        offset_scale: float = 1.0,
        post_norm: bool = False,
        res_post_norm: bool = False,
        layer_scale: float | None = None,
        level2_post_norm: bool = False,
        level2_post_norm_block_ids: Sequence[int] = (),
        center_feature_scale: bool = False,
        dw_kernel_size: int | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        with_cp: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        post_norm_ids = tuple(level2_post_norm_block_ids or ())
        _check(channels, depths, groups, out_indices, frozen_stages)
        _check_norms(
            post_norm, res_post_norm, layer_scale, level2_post_norm, post_norm_ids, depths[2]
        )
        super().__init__(init_cfg, in_chans)
        self.depths = tuple(depths)
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        self.num_layers = sum(depths)
        self.out_channels = tuple(channels << i for i in self.out_indices)
        self.strides = tuple(4 << i for i in self.out_indices)

        self.patch_embed = Stem(in_chans, channels)
        levels = []
        for i, (depth, group) in enumerate(zip(depths, groups)):
            blocks = [
                Block(
                    channels << i,
                    group,
                    offset_scale,
                    dw_kernel_size,
                    center_feature_scale,
                    mlp_ratio,
                    layer_scale,
                    post_norm,
                    res_post_norm,
                )
                for _ in range(depth)
            ]
            levels.append(
                Level(
                    channels << i,
                    blocks,
                    post_norm_ids if i == 2 else (),
                    norm=not post_norm or center_feature_scale,
                    downsample=i < 3,
                )
            )
        self.levels = nn.ModuleList(levels)  # type: ignore[assignment]  # it is not generic
        self.drop_path = StochasticDepth(
            [
                drop_path_rate * i / max(1, self.num_layers - 1)
                if i >= sum(depths[: max(frozen_stages, 0)])
                else 0.0
                for i in range(self.num_layers)
            ]
        )

        for module in self.modules():
            if isinstance(module, Mlp):
                for linear in (module.fc1, module.fc2):
                    trunc_normal_(linear.weight, std=0.02)
                    if linear.bias is not None:
                        nn.init.zeros_(linear.bias)
        for module in self.frozen_modules():
            module.requires_grad_(False).eval()

    def frozen_modules(self) -> list[nn.Module]:
        """Return the stem and the first levels, as ``frozen_stages`` says."""
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.levels[: self.frozen_stages]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_chans, height, width)`` to maps ``(B, C, h, w)``."""
        if 0 in x.shape[-2:]:
            raise ValueError(f'the image is too small: {x.shape[-2]} x {x.shape[-1]} pixels')
        x = self.patch_embed(x)
        factors = iter(self.drop_path(x.shape[0]))
        maps = []
        for i, level in enumerate(self.levels):
            x = level(x, list(islice(factors, len(level.blocks))), self.with_cp)
            if i in self.out_indices:
                maps.append(x.permute(0, 3, 1, 2))
            if level.downsample is not None:
                x = level.downsample(x)
        return tuple(maps)

    def compiled_parts(self) -> list[nn.Module]:
        """Return the stem, the blocks and the downsampling between levels."""
        steps = [level.downsample for level in self.levels if level.downsample is not None]
        blocks = [block for level in self.levels for block in level.blocks]
        return [self.patch_embed, *steps, *blocks]

    def layer_id(self, name: str) -> int:
        """Return the depth of a parameter for layer-wise decay, by its name in the backbone.

        It is 0 for the stem and 1, 2, ... for the blocks, counted over all levels. A level's
        downsampling and norm have the depth of the block after them; level 3's norm, as released,
        that of the level's first block. Norm ``m`` between blocks has the depth of block ``m``.
        """
        if name.startswith('patch_embed.'):
            return 0
        _, index, kind, *rest = name.split('.')
        level = int(index)
        if kind in ('blocks', 'post_norms'):
            return sum(self.depths[:level]) + int(rest[0]) + 1
        return sum(self.depths[: min(level + 1, 3)]) + 1

    def no_weight_decay(self, name: str, param: Tensor) -> bool:
        """Return whether a parameter of the whole model is exempt from weight decay."""
        return (
            param.dim() == 1
            or name.endswith('.bias')
            or any(word in name for word in ('norm', 'relative_position', 'sampling_offsets'))
        )


def _check(
    channels: int,
    depths: Sequence[int],
    groups: Sequence[int],
    out_indices: Sequence[int],
    frozen_stages: int,
) -> None:
    if channels < 2 or channels % 2:
        raise ValueError(f'channels={channels}: must be even, the stem starts with half of them')
    if len(depths) != 4 or min(depths) < 1:
        raise ValueError(f'depths={tuple(depths)}: give the number of blocks of four levels')
    if (
        len(groups) != 4
        or min(groups) < 1
        or any((channels << i) % group for i, group in enumerate(groups))
    ):
        raise ValueError(
            f"groups={tuple(groups)}: give four divisors of the levels' channels, "
            f'{", ".join(str(channels << i) for i in range(4))}'
        )
    maps = list(out_indices)
    if not maps or maps != sorted(set(maps)) or maps[0] < 0 or maps[-1] != 3:
        raise ValueError(
            f'out_indices={tuple(maps)}: give ascending levels that end at the last one, 3; '
            'levels after the last map would never be trained'
        )
    if not -1 <= frozen_stages <= 4:
        raise ValueError(f'frozen_stages={frozen_stages}: must be -1 to 4, the number of levels')


def _check_norms(
    post_norm: bool,
    res_post_norm: bool,
    layer_scale: float | None,
    level2_post_norm: bool,
    block_ids: tuple[int, ...],
    depth: int,
) -> None:
    if res_post_norm and (post_norm or layer_scale is not None):
        raise ValueError(
            'res_post_norm=True: the released networks ignore it with post_norm or layer_scale, '
            'and its norms would never be trained; give one of them'
        )
    if level2_post_norm != bool(block_ids):
        raise ValueError(
            f'level2_post_norm={level2_post_norm} with level2_post_norm_block_ids={block_ids}: '
            'give both or neither'
        )
    if list(block_ids) != sorted(set(block_ids)) or not set(block_ids) <= set(range(depth)):
        raise ValueError(
            f'level2_post_norm_block_ids={block_ids}: give ascending blocks of level 2, '
            f'0 to {depth - 1}'
        )
