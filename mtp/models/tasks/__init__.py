"""Tasks of the multi-task model: one decoder each, with last layers per data set."""

from mtp.models.tasks.base import Task, TaskBatch
from mtp.models.tasks.coders import DeltaXYWHCoder, DeltaXYWHTRCoder, MidpointCoder
from mtp.models.tasks.roi_extractors import LevelsRoIExtractor, LevelsRotatedRoIExtractor
from mtp.models.tasks.roi_head import SharedRoIHead
from mtp.models.tasks.rpn_head import MultiDatasetOrientedRPNHead, MultiDatasetRPNHead
from mtp.models.tasks.sampling import BatchedMaxIoUAssigner, SeededRandomSampler
from mtp.models.tasks.semantic import SemanticTask
from mtp.models.tasks.two_stage import InstanceTask, RotatedTask

__all__ = [
    'BatchedMaxIoUAssigner',
    'DeltaXYWHCoder',
    'DeltaXYWHTRCoder',
    'InstanceTask',
    'LevelsRoIExtractor',
    'LevelsRotatedRoIExtractor',
    'MidpointCoder',
    'MultiDatasetOrientedRPNHead',
    'MultiDatasetRPNHead',
    'RotatedTask',
    'SeededRandomSampler',
    'SemanticTask',
    'SharedRoIHead',
    'Task',
    'TaskBatch',
]
