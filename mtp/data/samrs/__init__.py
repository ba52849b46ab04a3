"""SAMRS: its subsets, reader, checks, conversion to and from COCO, and a synthetic copy."""

from mtp.lazy import attribute_getter

_NAMES = {
    'mtp.data.formats.object_xml': ('CORNER_TAGS',),
    'mtp.data.rotated_labels': ('read_rotated',),
    'mtp.data.samrs.records': ('SAMRSDataset',),
    'mtp.data.samrs.subsets': ('SUBSETS', 'Subset'),
}
__all__ = sorted(name for names in _NAMES.values() for name in names)
__getattr__ = attribute_getter(__name__, _NAMES)
