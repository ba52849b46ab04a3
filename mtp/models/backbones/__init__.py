"""Backbones: images -> four feature maps."""

from mtp.models.backbones.attention import FullAttention, RotatedWindowAttention
from mtp.models.backbones.dcnv3 import DCNv3
from mtp.models.backbones.factory import Backbone, build_backbone, list_backbones
from mtp.models.backbones.internimage import InternImage
from mtp.models.backbones.vit_rvsa import ViTRVSA

__all__ = [
    'Backbone',
    'DCNv3',
    'FullAttention',
    'InternImage',
    'RotatedWindowAttention',
    'ViTRVSA',
    'build_backbone',
    'list_backbones',
]
