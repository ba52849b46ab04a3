"""mtp: multi-task pretraining of remote-sensing foundation models."""
from typing import Any

from mtp import compat

__version__ = '0.1.0'
__all__ = ['build_backbone', 'list_backbones']

compat.setup()


def __getattr__(name: str) -> Any:
    # Backbones pull in OpenMMLab's model code, which takes seconds: not before it is asked for.
    if name in __all__:
        from mtp.models.backbones import factory
        return getattr(factory, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
