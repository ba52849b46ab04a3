"""Small synthetic copies of each data set, in its publisher's format."""

from mtp.lazy import attribute_getter

_NAMES = {
    'mtp.data.datasets': ('MAKE',),
    'mtp.data.samrs.synthesis': ('CLASSES', 'make_samrs'),
}
__all__ = sorted(name for names in _NAMES.values() for name in names)
__getattr__ = attribute_getter(__name__, _NAMES)
