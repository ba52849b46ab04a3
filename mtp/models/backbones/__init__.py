"""Backbones: images -> four feature maps."""
from mtp.models.backbones.attention import FullAttention, RotatedWindowAttention
from mtp.models.backbones.factory import Backbone, build_backbone, list_backbones
from mtp.models.backbones.vit_rvsa import ViTRVSA

__all__ = ['Backbone', 'FullAttention', 'RotatedWindowAttention', 'ViTRVSA', 'build_backbone',
           'list_backbones']
