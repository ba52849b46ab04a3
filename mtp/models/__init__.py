"""Features and losses: backbones, tasks and the multi-task model."""

from mtp.models.backbones import InternImage, ViTRVSA, build_backbone, list_backbones
from mtp.models.batch_norm import PerDatasetBatchNorm
from mtp.models.data_preprocessor import (
    BandDetDataPreprocessor,
    BandSegDataPreprocessor,
    MultiTaskDataPreprocessor,
)
from mtp.models.lean_fpn import LeanFPN
from mtp.models.multitask_model import MultiTaskPretrainer
from mtp.models.siamese_unet import PairDataPreprocessor, SiameseEncoderDecoder, UNetHead
from mtp.models.tasks import InstanceTask, RotatedTask, SemanticTask
from mtp.models.uper_head import LeanUPerHead

__all__ = [
    'BandDetDataPreprocessor',
    'BandSegDataPreprocessor',
    'InstanceTask',
    'InternImage',
    'LeanFPN',
    'LeanUPerHead',
    'MultiTaskDataPreprocessor',
    'MultiTaskPretrainer',
    'PairDataPreprocessor',
    'PerDatasetBatchNorm',
    'RotatedTask',
    'SemanticTask',
    'SiameseEncoderDecoder',
    'UNetHead',
    'ViTRVSA',
    'build_backbone',
    'list_backbones',
]
