"""UPerNet's decode head, which keeps fewer of its maps for the backward pass."""

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import UPerHead
from torch import Tensor

from mtp.models.recomputation import convolve, convolve_recomputed, ends_with_dataset_norm
from mtp.ops.adaptive_pools import adaptive_pools
from mtp.ops.resize_maps import resize_maps
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

    def psp_forward(self, inputs: list[Tensor]) -> Tensor:
        """Pool the coarsest map at several scales, and fuse it with the results."""
        x = inputs[-1]
        pools = adaptive_pools(x, self.psp_modules.pool_scales)
        pooled = [_run(conv, pool) for (_, conv), pool in zip(self.psp_modules, pools)]
        return _run(self.bottleneck, self._concatenate(x, *pooled))

    def _add_resized(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return resize_maps([coarse], fine.shape[2:], fine, self.align_corners)

    def _concatenate(self, finest: Tensor, *others: Tensor) -> Tensor:
        return resize_maps([finest, *others], finest.shape[2:], None, self.align_corners)


def _run(module: ConvModule, x: Tensor) -> Tensor:
    """Do what the module does, with a ReLU as part of its norm's operator."""
    if ends_with_dataset_norm(module):
        return module.norm(module.conv(x), module.with_activation)
    return module(x)
