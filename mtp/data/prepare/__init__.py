"""Preparation of data sets: from the publisher's files to those that a config reads.

The preparation of each data set is in its module of ``mtp.data.datasets``; the shared parts are
here.
"""

from mtp.lazy import attribute_getter

_NAMES = {
    'mtp.data.prepare.base': ('Report',),
    'mtp.data.preparation': ('prepare',),
}
__all__ = sorted(name for names in _NAMES.values() for name in names)
__getattr__ = attribute_getter(__name__, _NAMES)
