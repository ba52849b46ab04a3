"""UPerNet's decode head, which keeps fewer of its maps for the backward pass."""

import torch
from mmseg.models.decode_heads import UPerHead
from mmseg.models.utils import resize
from torch import Tensor

from mtp.models.recomputation import convolve_recomputed
from mtp.registry import MODELS


@MODELS.register_module()
class LeanUPerHead(UPerHead):
    """mmseg's ``UPerHead`` that recomputes its two largest maps in the backward pass.

    These are the sum at the finest level of the top-down path, and the concatenation of all levels
    at the finest size. Results and parameters are those of ``UPerHead``.
    """

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        """Fuse four maps into one of the size of the first, ``(B, channels, H, W)``.

        Args:
            inputs: maps ``(B, C, h, w)``, the finest first.
        """
        inputs = self._transform_inputs(inputs)
        finest, *laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs)]
        sums = [self.psp_forward(inputs)]
        for lateral in reversed(laterals):
            sums.insert(0, self._add_resized(lateral, sums[0]))
        first, *convs = self.fpn_convs
        outs = [
            convolve_recomputed(first, self._add_resized, finest, sums[0]),
            *(conv(x) for conv, x in zip(convs, sums)),
            sums[-1],
        ]
        return convolve_recomputed(self.fpn_bottleneck, self._concatenate, *outs)

    def _add_resized(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return fine + self._resize(coarse, fine)

    def _concatenate(self, finest: Tensor, *others: Tensor) -> Tensor:
        return torch.cat([finest, *(self._resize(x, finest) for x in others)], 1)

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], mode='bilinear', align_corners=self.align_corners)
