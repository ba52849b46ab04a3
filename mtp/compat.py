"""Every workaround for an upstream library, each with the version that needs it.

``import mtp`` applies :func:`setup`; :mod:`mtp.engine` applies :func:`load_checkpoints_safely` and
:func:`cache_ordered_effects`.
``tests/test_compat.py`` has a test for each that fails when upstream no longer needs it.
"""
import functools
import importlib.metadata

from mtp.ops import mmcv_ext

# The original OpenMMLab distributions -> their maintained OneDL successors. Both unpack to the
# same folders, so that files of the one replace files of the other.
SUCCESSORS = {
    'mmengine': 'onedl-mmengine',
    'mmengine-lite': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmcv-full': 'onedl-mmcv',
    'mmcv-lite': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmsegmentation': 'onedl-mmsegmentation',
    'mmrotate': 'onedl-mmrotate',
    'mmpretrain': 'onedl-mmpretrain',
}


def setup() -> None:
    """Apply what OpenMMLab needs before its first import."""
    refuse_mixed_distributions()
    provide_mmcv_extension()
    silence_onedl_notices()


def refuse_mixed_distributions() -> None:
    """Raise where an original OpenMMLab distribution lies beside its OneDL successor.

    Raises:
        ImportError: naming both and the commands that mend it.
    """
    installed = {dist.metadata['Name'].lower() for dist in importlib.metadata.distributions()
                 if dist.metadata['Name']}
    mixed = {old: new for old, new in SUCCESSORS.items() if {old, new} <= installed}
    if mixed:
        pairs = ', '.join(f'{old} and {new}' for old, new in mixed.items())
        names = ' '.join([*mixed, *dict.fromkeys(mixed.values())])
        raise ImportError(
            f'{pairs} are both installed, and unpack to the same folders: their files are mixed. '
            f'Mend it with\n  pip uninstall -y {names}\n'
            f'  pip install {" ".join(dict.fromkeys(mixed.values()))}')


def provide_mmcv_extension() -> None:
    """Give ``mmcv.ops`` an extension where mmcv came without a compiled one.

    onedl-mmcv 2.3.6: pip builds its source archive without torch, hence without ``mmcv._ext``, and
    ``import mmcv.ops`` (of mmdet, mmseg and mmrotate as well) fails.
    """
    mmcv_ext.install()


def silence_onedl_notices() -> None:
    """Keep "Could not import OneDL" from users who never asked for OneDL's data sets.

    onedl-mmdetection 3.5.1, onedl-mmsegmentation 1.4.2, onedl-mmrotate 1.2.1 and onedl-mmpretrain
    1.3.6 say so on import when the optional package is absent; ``print_log`` without a logger
    prints whatever the level. All other messages pass.
    """
    from mmengine import logging
    if hasattr(logging.print_log, '__wrapped__'):
        return
    print_log = logging.print_log

    @functools.wraps(print_log)
    def filtered(msg, *args, **kwargs):
        if not str(msg).startswith('Could not import OneDL'):
            print_log(msg, *args, **kwargs)
    logging.print_log = filtered


def load_checkpoints_safely() -> None:
    """Make mmengine's loader refuse what ``weights_only=True`` refuses.

    onedl-mmengine 0.10.12 loads a file once more with ``weights_only=False``, which runs whatever
    code the file holds, when the safe load fails.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    from mtp.models.checkpoints import load_safely

    @CheckpointLoader.register_scheme('', force=True)
    def load_from_local(filename: str, map_location=None) -> object:
        return load_safely(filename, map_location)


def cache_ordered_effects() -> None:
    """Let compiled code whose operators have an ordered effect be kept in the compile cache.

    torch 2.11.0 orders such operators by a node that it does not mark as one that can be cached, so
    that every start would compile what holds synchronised batch norm anew.
    """
    from torch._higher_order_ops.effects import with_effects
    with_effects._cacheable = True
