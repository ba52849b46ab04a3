"""Files -> samples: data sets, transforms and the order of the images."""
from mtp.data.multitask import MultiTaskDataset
from mtp.data.samplers import MultiDatasetSampler
from mtp.data.samrs import SUBSETS, SAMRSDataset
from mtp.data.transforms import (
    Crop,
    FilterInstances,
    Flip,
    LoadImage,
    LoadLabels,
    PackLabels,
    Resize,
)

__all__ = [
    'Crop', 'FilterInstances', 'Flip', 'LoadImage', 'LoadLabels', 'MultiDatasetSampler',
    'MultiTaskDataset', 'PackLabels', 'Resize', 'SAMRSDataset', 'SUBSETS',
]
