"""Files -> samples: data sets, transforms and the order of the images."""
from mtp.data.change import ChangeDataset, DistortPair, LoadChange, LoadPair, SwapDates
from mtp.data.crops import LoadCrop
from mtp.data.detection import DIORDetection, DOTATiles, XViewDetection
from mtp.data.labelled import LoadClassMap, SceneDataset
from mtp.data.multitask import MultiTaskDataset
from mtp.data.packed import PackedDataset
from mtp.data.samplers import MultiDatasetSampler
from mtp.data.samrs import SUBSETS, SAMRSDataset
from mtp.data.transforms import (
    Crop,
    DrawDistortion,
    FilterInstances,
    Flip,
    LoadImage,
    LoadLabels,
    PackLabels,
    Resize,
)

__all__ = [
    'ChangeDataset', 'Crop', 'DIORDetection', 'DOTATiles', 'DistortPair', 'DrawDistortion',
    'FilterInstances', 'Flip', 'LoadChange', 'LoadClassMap', 'LoadCrop', 'LoadImage', 'LoadLabels',
    'LoadPair', 'MultiDatasetSampler', 'MultiTaskDataset', 'PackLabels', 'PackedDataset', 'Resize',
    'SAMRSDataset', 'SUBSETS', 'SceneDataset', 'SwapDates', 'XViewDetection',
]
