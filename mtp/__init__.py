"""mtp: multi-task pretraining of remote-sensing foundation models."""

from mtp import compat, old_names
from mtp.lazy import attribute_getter

__version__ = '0.1.0'
_PUBLIC = {
    'mtp.prediction.from_checkpoint': ['load'],
    'mtp.models.backbones.factory': ['build_backbone', 'list_backbones'],
}
__all__ = [name for names in _PUBLIC.values() for name in names]

compat.setup()
old_names.setup()
__getattr__ = attribute_getter(__name__, _PUBLIC)
