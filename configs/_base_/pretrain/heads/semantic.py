"""Semantic segmentation: UPerNet, with the settings of the MTP pretraining."""

from mmseg.models.losses import CrossEntropyLoss

from mtp.models import LeanUPerHead, PerDatasetBatchNorm
from mtp.models.tasks import SemanticTask

semantic = dict(
    type=SemanticTask,
    decode_head=dict(
        type=LeanUPerHead,
        channels=256,
        pool_scales=(1, 2, 3, 6),
        norm_cfg=dict(type=PerDatasetBatchNorm),
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss),
    ),
)
