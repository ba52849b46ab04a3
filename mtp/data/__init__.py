"""From files to samples: data sets, transforms and the order of the images.

Each name is imported when first used, so that modules which only read and write files do not
import torch.
"""

from mtp.lazy import attribute_getter

_NAMES = {
    'mtp.data.crops': ('LoadCrop',),
    'mtp.data.load_bands': ('LoadBands',),
    'mtp.data.multitask_dataset': ('MultiTaskDataset',),
    'mtp.data.packed': ('PackedDataset',),
    'mtp.data.readers.box_files': ('BoxFilesDetection',),
    'mtp.data.readers.boxes': ('COCODetection', 'DIORDetection', 'DOTATiles', 'XViewDetection'),
    'mtp.data.readers.labelled': ('LoadClassMap', 'SceneDataset'),
    'mtp.data.readers.maps': ('SegmentationDataset',),
    'mtp.data.readers.pairs': (
        'ChangeDataset',
        'DistortPair',
        'LoadChange',
        'LoadPair',
        'SwapDates',
    ),
    'mtp.data.samplers': ('MultiDatasetSampler',),
    'mtp.data.samrs.records': ('SAMRSDataset',),
    'mtp.data.samrs.subsets': ('SUBSETS',),
    'mtp.data.transforms': (
        'Crop',
        'DrawDistortion',
        'FilterInstances',
        'Flip',
        'LoadImage',
        'LoadLabels',
        'PackLabels',
        'Resize',
    ),
}
__all__ = sorted(name for names in _NAMES.values() for name in names)
__getattr__ = attribute_getter(__name__, _NAMES)
