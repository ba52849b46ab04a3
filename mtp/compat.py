"""Every workaround for an upstream library, each with the version that needs it.

``import mtp`` calls :func:`setup`, which imports none of them: a workaround is applied when the
package that needs it is imported. :mod:`mtp.engine` applies :func:`load_checkpoints_safely`, and
:func:`support_ordered_effects` where a model is compiled.
``tests/test_compat.py`` has a test for each that fails when upstream no longer needs it.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

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


def refuse_mixed_distributions() -> None:
    """Raise where an original OpenMMLab distribution lies beside its OneDL successor.

    Raises:
        ImportError: naming both and the commands that mend it.
    """
    installed = {
        dist.metadata['Name'].lower()
        for dist in importlib.metadata.distributions()
        if dist.metadata['Name']
    }
    mixed = {old: new for old, new in SUCCESSORS.items() if {old, new} <= installed}
    if mixed:
        pairs = ', '.join(f'{old} and {new}' for old, new in mixed.items())
        names = ' '.join([*mixed, *dict.fromkeys(mixed.values())])
        raise ImportError(
            f'{pairs} are both installed, and unpack to the same folders: their files are mixed. '
            f'Mend it with\n  pip uninstall -y {names}\n'
            f'  pip install {" ".join(dict.fromkeys(mixed.values()))}'
        )


def provide_mmcv_extension() -> importlib.machinery.ModuleSpec | None:
    """Return an extension for ``mmcv.ops`` where mmcv came without a compiled one.

    onedl-mmcv 2.3.6: pip builds its source archive without torch, hence without ``mmcv._ext``, and
    ``import mmcv.ops`` (of mmdet, mmseg and mmrotate as well) fails.
    """
    from mtp.ops import mmcv_ext

    return mmcv_ext.find_spec()


def silence_onedl_notices(logging: ModuleType) -> None:
    """Keep "Could not import OneDL" from users who never asked for OneDL's data sets.

    onedl-mmdetection 3.5.1, onedl-mmsegmentation 1.4.2, onedl-mmrotate 1.2.1 and onedl-mmpretrain
    1.3.6 say so on import when the optional package is absent; ``print_log`` without a logger
    prints whatever the level. All other messages pass.

    Args:
        logging: the module ``mmengine.logging``.
    """
    print_log = logging.print_log

    @functools.wraps(print_log)
    def filtered(msg: object, *args: object, **kwargs: object) -> None:
        if not str(msg).startswith('Could not import OneDL'):
            print_log(msg, *args, **kwargs)

    logging.print_log = filtered


def leave_out_multimodal_models(dependency: ModuleType) -> None:
    """Keep mmpretrain from importing its multi-modal models beside transformers 5.

    onedl-mmpretrain 1.3.6 imports them wherever transformers is installed, from places that
    transformers 5 no longer has: ``import mmpretrain.models`` (of mmdet, mmseg and mmrotate as
    well) ends in a TypeError. mtp uses none of them.

    Args:
        dependency: the module ``mmpretrain.utils.dependency``.
    """
    if dependency.satisfy_requirement('transformers>=5.0.0'):
        dependency.WITH_MULTIMODAL = False
        dependency.register_multimodal_placeholder = _register_left_out


def _register_left_out(names: Sequence[str], registry: Any) -> None:
    def left_out(*args: object, **kwargs: object) -> None:
        version = importlib.metadata.version('transformers')
        raise ImportError(
            "mmpretrain's multi-modal models need transformers 4, and transformers "
            f"{version} is installed: pip install 'transformers>=4.40,<5'"
        )

    for name in names:
        registry.register_module(name=name, module=left_out)


def enlarge_cache_of_sympy() -> None:
    """Let sympy keep the results of more than 1,000 calls of each function.

    torch 2.11.0 computes with the indices of kernels in sympy 1.14.0, and its inductor asks for the
    same results again after more calls than that: tracing and lowering a pretraining step takes a
    tenth longer.
    """
    os.environ.setdefault('SYMPY_CACHE_SIZE', '200000')


BEFORE: dict[str, Callable[[], importlib.machinery.ModuleSpec | None]] = {
    'mmengine': refuse_mixed_distributions,
    'mmcv': refuse_mixed_distributions,
    'mmcv._ext': provide_mmcv_extension,
    'sympy': enlarge_cache_of_sympy,
}
AFTER: dict[str, Callable[[ModuleType], None]] = {
    'mmengine.logging': silence_onedl_notices,
    'mmpretrain.utils.dependency': leave_out_multimodal_models,
}


def setup() -> None:
    """Apply each workaround when the module that it is for is imported, or now if it has been."""
    sys.meta_path.insert(0, WorkaroundFinder())
    for name in BEFORE.keys() & sys.modules:
        BEFORE[name]()
    for name in AFTER.keys() & sys.modules:
        AFTER[name](sys.modules[name])


class WorkaroundFinder(importlib.abc.MetaPathFinder):
    """Finder that calls what ``BEFORE`` and ``AFTER`` have for a module that is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec where a workaround has its own, otherwise None: others look for it."""
        if name in BEFORE:
            return BEFORE[name]()
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in AFTER else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(
                _execute, spec.loader.exec_module, AFTER[name]
            )
        return spec


def _execute(
    execute: Callable[[ModuleType], None], then: Callable[[ModuleType], None], module: ModuleType
) -> None:
    execute(module)
    then(module)


def load_checkpoints_safely(
    load: Callable[[str, Any], object],
    download: Callable[[str, Any], object],
    refuse: Callable[[str, Any], object],
) -> None:
    """Make mmengine's loader refuse what ``weights_only=True`` refuses, whatever the scheme.

    onedl-mmengine 0.10.12 loads a file once more with ``weights_only=False``, which runs whatever
    code the file holds, when the safe load fails; and what it downloads it loads so at once.

    Args:
        load: loads a file, given its path and ``map_location``, or raises.
        download: loads a file at an address of the web, likewise.
        refuse: raises, given an address of another storage, likewise.
    """
    from mmengine.runner import checkpoint

    for prefixes, loader in {
        ('',): load,
        ('http://', 'https://'): download,
        ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://'): refuse,
    }.items():
        checkpoint.CheckpointLoader.register_scheme(prefixes, loader, force=True)

    def safe_torch_load(file: str, map_location: Any = None, weights_only: bool = True) -> object:
        return load(file, map_location)

    # The schemes of model zoos look an address up, and load it by these names.
    checkpoint.load_from_http = download
    checkpoint._safe_torch_load = safe_torch_load


@functools.cache
def support_ordered_effects() -> None:
    """Let inductor keep operators of an ordered effect in order, and their code in its cache.

    torch 2.11.0 orders them by nodes that it does not mark as ones that can be cached, so that what
    holds synchronised batch norm would be compiled anew at every start. And inductor notes what an
    operator has to wait for by the name of its buffer, but looks it up by the operator's, so that
    the order is lost.
    """
    from torch._higher_order_ops.effects import with_effects
    from torch._inductor import lowering
    from torch._inductor.virtualized import V

    with_effects._cacheable = True
    lower = lowering.lowerings[with_effects]

    def lower_in_order(*args, **kwargs):
        first = len(V.graph.operations)
        result = lower(*args, **kwargs)
        waits = getattr(V.graph, 'additional_star_deps', None)  # older releases have another way
        for operation in V.graph.operations[first:] if waits is not None else ():
            waits[operation.get_operation_name()].update(waits[operation.get_name()])
        return result

    lowering.lowerings[with_effects] = lower_in_order
