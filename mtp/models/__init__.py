"""Features and losses: backbones, tasks and the multi-task model."""
from mtp.models.backbones import InternImage, ViTRVSA, build_backbone, list_backbones
from mtp.models.change_detection import PairDataPreprocessor, SiameseEncoderDecoder, UNetHead
from mtp.models.data_preprocessor import MultiTaskDataPreprocessor
from mtp.models.layers import PerDatasetBatchNorm
from mtp.models.multitask import MultiTaskPretrainer
from mtp.models.tasks import InstanceTask, RotatedTask, SemanticTask

__all__ = [
    'InstanceTask', 'InternImage', 'MultiTaskDataPreprocessor', 'MultiTaskPretrainer',
    'PairDataPreprocessor', 'PerDatasetBatchNorm', 'RotatedTask', 'SemanticTask',
    'SiameseEncoderDecoder', 'UNetHead', 'ViTRVSA', 'build_backbone', 'list_backbones',
]
