"""From what a data set's publisher distributes to what its config reads.

What a data set does by itself is in its module of ``mtp.data.datasets``; here is what they share.
"""

from mtp.lazy import attribute_getter

_NAMES = {
    'mtp.data.prepare.base': ('Report',),
    'mtp.data.preparation': ('prepare',),
}
__all__ = sorted(name for names in _NAMES.values() for name in names)
__getattr__ = attribute_getter(__name__, _NAMES)
