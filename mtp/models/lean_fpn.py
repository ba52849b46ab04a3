"""mmdet's feature pyramid in few launches."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch.nn.functional as F
from mmdet.models.necks import FPN
from torch import Tensor

from mtp.models.deferred_bias import DeferredBiasConv2d
from mtp.ops import share_maps
from mtp.registry import MODELS

UNSUPPORTED = ('add_extra_convs', 'conv_cfg', 'norm_cfg', 'act_cfg')


@MODELS.register_module()
class LeanFPN(FPN):
    """mmdet's ``FPN``, with the same parameters and, up to rounding, the same results.

    The top-down path is one compiled part: a level gets its bias and the resized sum of the coarser
    ones in one launch, and takes another in the backward pass. The biases of the results are added
    to all levels in one launch; the gradients of all their consumers are added in one, too.

    Args:
        in_channels: numbers of channels of the backbone's maps.
        out_channels: number of channels of each map of the pyramid.
        num_outs: number of maps of the pyramid.
        kwargs: further options of ``FPN``, without those in ``UNSUPPORTED``.

    Raises:
        ValueError: one of these is set, or ``upsample_cfg`` to another value than its default.
    """

    compiled_methods = ('top_down',)

    def __init__(
        self, in_channels: list[int], out_channels: int, num_outs: int, **kwargs: Any
    ) -> None:
        found = [option for option in UNSUPPORTED if kwargs.get(option)]
        kwargs['conv_cfg'] = dict(type=DeferredBiasConv2d)
        super().__init__(in_channels, out_channels, num_outs, **kwargs)
        if self.upsample_cfg != {'mode': 'nearest'}:
            found.append('upsample_cfg')
        if found:
            raise ValueError(f'{type(self).__name__} does not take {", ".join(found)}: use FPN')

    def forward(
        self, inputs: Sequence[Tensor], consumers: int | None = None
    ) -> tuple[Tensor, ...] | list[tuple[Tensor, ...]]:
        """Return the maps of the pyramid, ``(B, out_channels, h, w)``, the finest first.

        Args:
            inputs: maps of the backbone, ``(B, C, h, w)``, the finest first.
            consumers: number of consumers, each of which gets its own views of the maps, in a list,
                see :func:`mtp.ops.share_maps`; None for the maps alone.
        """
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs[self.start_level :])]
        sums = self.top_down(laterals, _biases(self.lateral_convs, laterals))
        maps = [conv(x) for conv, x in zip(self.fpn_convs, sums)]
        shared = share_maps(
            maps,
            consumers or 1,
            _biases(self.fpn_convs, maps),
            subsampled=self.num_outs - len(maps),
        )
        return shared[0] if consumers is None else shared

    def top_down(self, laterals: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
        """Add to each map, the finest first, its bias and the resized sum of those after it."""
        laterals = [x + bias[:, None, None] for x, bias in zip(laterals, biases)]
        sums = laterals[-1:]
        for lateral in reversed(laterals[:-1]):
            sums.insert(0, _add_resized(lateral, sums[0]))
        return sums


def _biases(modules: Iterable[Any], maps: list[Tensor]) -> list[Tensor]:
    """Return convolutions' biases in the dtypes of their maps, as autocast would cast them."""
    return [module.conv.bias.to(x.dtype) for module, x in zip(modules, maps)]


def _add_resized(fine: Tensor, coarse: Tensor) -> Tensor:
    if fine.shape[2:] != tuple(2 * side for side in coarse.shape[2:]):
        return fine + F.interpolate(coarse, fine.shape[2:])
    # By the four pixels of each coarse one: compiled, the gradient of a resized map is scattered.
    # Channels last, as convolutions on GPUs leave them: others would be copied.
    fine, coarse = (x.permute(0, 2, 3, 1) for x in (fine, coarse))
    pixels = fine.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    sums = pixels + coarse[:, :, None, :, None]
    return sums.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
