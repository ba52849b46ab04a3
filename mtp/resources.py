"""Files that come with mtp and are no modules."""

from importlib.resources import files
from pathlib import Path


def configs() -> Path:
    """Return the folder of the configs: in the installed package, or beside it in a checkout."""
    package = Path(str(files('mtp')))
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'
