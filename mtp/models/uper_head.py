"""UPerNet's decode head, which keeps fewer of its maps for the backward pass."""

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import UPerHead
from mmseg.models.utils import resize
from torch import Tensor

from mtp.models.recomputation import convolve, convolve_recomputed
from mtp.registry import MODELS


@MODELS.register_module()
class LeanUPerHead(UPerHead):
    """mmseg's ``UPerHead`` that computes its largest maps again in the backward pass.

    These are, at the finest level, the sum of the top-down path and the concatenation of all
    levels, and with :class:`PerDatasetBatchNorm` the norms and ReLUs. Results and parameters are
    those of ``UPerHead``.
    """

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        """Fuse four maps into one of the size of the first, ``(B, channels, H, W)``.

        Args:
            inputs: maps ``(B, C, h, w)``, the finest first.
        """
        inputs = self._transform_inputs(inputs)
        first, *convs = self.lateral_convs
        lateral, finish_lateral = convolve(first, inputs[0])
        sums = [self.psp_forward(inputs)]
        for conv, x in reversed([*zip(convs, inputs[1:])]):
            sums.insert(0, self._add_resized(_run(conv, x), sums[0]))

        first, *convs = self.fpn_convs
        finest, finish_finest = convolve_recomputed(
            first, lambda x, coarse: self._add_resized(finish_lateral(x), coarse), lateral, sums[0]
        )
        others = [*(_run(conv, x) for conv, x in zip(convs, sums)), sums[-1]]
        fused, finish = convolve_recomputed(
            self.fpn_bottleneck,
            lambda x, *others: self._concatenate(finish_finest(x), *others),
            finest,
            *others,
        )
        return finish(fused)

    def _add_resized(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return fine + self._resize(coarse, fine)

    def _concatenate(self, finest: Tensor, *others: Tensor) -> Tensor:
        return torch.cat([finest, *(self._resize(x, finest) for x in others)], 1)

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], mode='bilinear', align_corners=self.align_corners)


def _run(module: ConvModule, x: Tensor) -> Tensor:
    """Do what the module does, with a ReLU as part of its norm's operator."""
    x, finish = convolve(module, x)
    return finish(x)
