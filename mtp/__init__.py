"""mtp: multi-task pretraining of remote-sensing foundation models."""

from mtp import compat, old_names
from mtp.lazy import attribute_getter

__version__ = '0.1.0'
__all__ = ['build_backbone', 'list_backbones']

compat.setup()
old_names.setup()
__getattr__ = attribute_getter(__name__, {'mtp.models.backbones.factory': __all__})
