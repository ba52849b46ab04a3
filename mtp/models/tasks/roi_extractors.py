"""RoI features from every pyramid level in one call, without waiting to sort RoIs by level."""

from collections.abc import Sequence

from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor, SingleRoIExtractor
from mmrotate.models.roi_heads.roi_extractors import RotatedSingleRoIExtractor
from torch import Tensor

from mtp.models.tasks.base import mark_varying
from mtp.ops.roi_align_levels import roi_align_levels
from mtp.registry import MODELS


class _AllLevels(BaseRoIExtractor):
    """RoI extractor that pools all levels in one call; a padded slot has image -1 and gives 0."""

    compiled_methods = ('levels_of',)

    def forward(self, feats: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Pool each RoI from the level of its size.

        Args:
            feats: feature maps of the levels, ``(B, C, H, W)`` each.
            rois: RoIs in pixels and radians, ``(R, 5)``: image index, x1, y1, x2, y2; or
                ``(R, 6)``: image index, cx, cy, w, h, angle.

        Returns:
            Tensor: ``(R, C, height, width)``.
        """
        levels = self.levels_of(mark_varying(rois, 0), len(feats))
        layer = self.roi_layers[0]
        return roi_align_levels(
            feats, rois, levels, layer.output_size, self.featmap_strides, layer.sampling_ratio
        )

    def levels_of(self, rois: Tensor, number: int) -> Tensor:
        """Return the level of each RoI by its size, ``(R,)``, of a number of levels; -1 of a slot.

        Args:
            rois: as for :meth:`forward`.
            number: number of levels.
        """
        return self.map_roi_levels(rois, number).masked_fill(rois[:, 0] < 0, -1)


@MODELS.register_module()
class LevelsRoIExtractor(_AllLevels, SingleRoIExtractor):
    """mmdet's ``SingleRoIExtractor`` of ``RoIAlign`` layers; the host never waits."""


@MODELS.register_module()
class LevelsRotatedRoIExtractor(_AllLevels, RotatedSingleRoIExtractor):
    """mmrotate's ``RotatedSingleRoIExtractor`` of clockwise ``RoIAlignRotated`` layers."""
