"""mmdet's feature pyramid, with a top-down path that compiles."""

from typing import Any

import torch.nn.functional as F
from mmdet.models.necks import FPN
from torch import Tensor

from mtp.registry import MODELS


@MODELS.register_module()
class LeanFPN(FPN):
    """mmdet's ``FPN`` whose top-down path is one compiled part.

    A level is then resized and added by one launch, and by another in the backward pass, not two
    each. Results and parameters are those of ``FPN``.

    Args:
        args, kwargs: options of ``FPN``, without ``add_extra_convs`` and ``upsample_cfg``.

    Raises:
        ValueError: one of these is set.
    """

    compiled_methods = ('top_down',)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.add_extra_convs or self.upsample_cfg != {'mode': 'nearest'}:
            raise ValueError(
                f'{type(self).__name__} takes neither add_extra_convs nor upsample_cfg: use FPN'
            )

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the maps of the pyramid, ``(B, out_channels, h, w)``, the finest first.

        Args:
            inputs: maps of the backbone, ``(B, C, h, w)``, the finest first.
        """
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs[self.start_level :])]
        maps = [conv(x) for conv, x in zip(self.fpn_convs, self.top_down(laterals))]
        while len(maps) < self.num_outs:
            maps.append(F.max_pool2d(maps[-1], 1, stride=2))
        return tuple(maps)

    def top_down(self, laterals: list[Tensor]) -> list[Tensor]:
        """Add to each map, the finest first, the resized sum of those after it."""
        sums = laterals[-1:]
        for lateral in reversed(laterals[:-1]):
            sums.insert(0, _add_resized(lateral, sums[0]))
        return sums


def _add_resized(fine: Tensor, coarse: Tensor) -> Tensor:
    if fine.shape[2:] != tuple(2 * side for side in coarse.shape[2:]):
        return fine + F.interpolate(coarse, fine.shape[2:])
    # By the four pixels of each coarse one: compiled, the gradient of a resized map is scattered.
    # Channels last, as convolutions on GPUs leave them: others would be copied.
    fine, coarse = (x.permute(0, 2, 3, 1) for x in (fine, coarse))
    pixels = fine.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    sums = pixels + coarse[:, :, None, :, None]
    return sums.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
