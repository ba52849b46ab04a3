"""Files of mtp that are not modules."""

from importlib.resources import files
from pathlib import Path


def configs() -> Path:
    """Return the configs' folder: inside an installed package, or beside it in a checkout."""
    package = Path(str(files('mtp')))
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'
