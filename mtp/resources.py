"""Files of mtp that are not modules."""

from importlib.resources import files
from pathlib import Path


def configs() -> Path:
    """Return the configs' folder: inside an installed package, or beside it in a checkout."""
    package = Path(str(files('mtp')))
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


def packaged_config(name: Path) -> Path:
    """Return the path of one of mtp's configs, which need not exist.

    Args:
        name: path below the folder of all configs, such as ``pretrain/vit_b_rvsa_samrs.py``; the
            folder's own name, ``configs/``, may be given too.
    """
    parts = name.parts[1:] if name.parts[:1] == ('configs',) else name.parts
    return configs().joinpath(*parts)


def config_names() -> list[str]:
    """Return the names of mtp's configs without ``.py``; bases are left out."""
    folder = configs()
    names = (path.relative_to(folder).with_suffix('') for path in folder.rglob('*.py'))
    return sorted(name.as_posix() for name in names if name.parts[0] != '_base_')
