"""The tasks of the multi-task model: a decoder each, with last layers per data set."""
from mtp.models.tasks.base import Task, TaskBatch
from mtp.models.tasks.coders import DeltaXYWHCoder, DeltaXYWHTRCoder, MidpointCoder
from mtp.models.tasks.roi_head import SharedRoIHead
from mtp.models.tasks.sampling import SeededRandomSampler
from mtp.models.tasks.semantic import SemanticTask
from mtp.models.tasks.two_stage import (
    InstanceTask,
    MultiDatasetOrientedRPNHead,
    MultiDatasetRPNHead,
    RotatedTask,
)

__all__ = [
    'DeltaXYWHCoder', 'DeltaXYWHTRCoder', 'InstanceTask', 'MidpointCoder',
    'MultiDatasetOrientedRPNHead', 'MultiDatasetRPNHead', 'RotatedTask',
    'SeededRandomSampler', 'SemanticTask', 'SharedRoIHead', 'Task', 'TaskBatch',
]
