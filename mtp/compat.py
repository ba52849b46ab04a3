"""Every workaround for an upstream library, each with the version that needs it.

``import mtp`` calls :func:`setup`, which imports none of them: a workaround is applied when the
package that needs it is imported. :mod:`mtp.engine` applies :func:`load_checkpoints_safely`, and
:func:`support_ordered_effects` where a model is compiled; :mod:`mtp.export` takes
:func:`onnx_translations`.
``tests/test_compat.py`` has a test for each that fails when upstream no longer needs it.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.metadata
import os
import pickletools
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from mtp.files import finite
from mtp.resources import configs

# The original OpenMMLab distributions -> their maintained OneDL successors. Both install into the
# same folders, so the files of one overwrite those of the other.
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
    """Refuse an original OpenMMLab distribution that is installed beside its OneDL successor.

    Raises:
        ImportError: both are installed; the message gives the commands that mend it.
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
    """Return an extension for ``mmcv.ops`` if mmcv has no compiled one.

    onedl-mmcv 2.3.6: pip builds its source archive without torch and therefore without
    ``mmcv._ext``; ``import mmcv.ops`` then fails, and with it mmdet, mmseg and mmrotate.
    """
    from mtp.ops import mmcv_ext

    return mmcv_ext.find_spec()


# How messages begin that a user can do nothing about.
NOTICES = (
    'Could not import OneDL',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


def silence_notices(logging: ModuleType) -> None:
    """Suppress messages of the libraries that concern only the libraries; all others pass.

    onedl-mmdetection 3.5.1, onedl-mmsegmentation 1.4.2, onedl-mmrotate 1.2.1 and onedl-mmpretrain
    1.3.6 print on import if their optional package OneDL is missing; ``print_log`` without a logger
    ignores the log level. onedl-mmengine 0.10.12 warns of its own ``FileClient``, which its
    ``CheckpointHook`` uses.

    Args:
        logging: module ``mmengine.logging``.
    """
    print_log = logging.print_log

    @functools.wraps(print_log)
    def filtered(msg: object, *args: object, **kwargs: object) -> None:
        if not str(msg).startswith(NOTICES):
            print_log(msg, *args, **kwargs)

    vars(logging).update(print_log=filtered)


def find_own_configs(config: ModuleType) -> None:
    """Let ``from mtp.configs._base_ import ...`` in configs find the folder of a checkout.

    onedl-mmengine 0.10.12 looks for an absolute import within the package's own folder, and in a
    checkout, installed editably or not, the configs are beside it.

    Args:
        config: module ``mmengine.config.config``.
    """
    installed_path = config.get_installed_path

    @functools.wraps(installed_path)
    def path_of(package: str) -> str:
        return str(configs().parent) if package == 'mtp' else installed_path(package)

    vars(config).update(get_installed_path=path_of)


def silence_advice_on_cross_entropy(losses: ModuleType) -> None:
    """Suppress mmseg's advice to average the loss differently than the paper did.

    onedl-mmsegmentation 1.4.2 gives it whenever the loss is built with the default
    ``avg_non_ignore=False``.

    Args:
        losses: module ``mmseg.models.losses.cross_entropy_loss``.
    """
    warnings.filterwarnings('ignore', message='Default ``avg_non_ignore`` is False')


def count_accuracy_without_waiting(losses: ModuleType) -> None:
    """Let mmseg count its accuracy in tensors whose shapes do not depend on the labels.

    Needed for mmsegmentation up to 1.4.2: it picks the pixels that are not ignored, for whose
    number the host waits in each step, and which a CUDA graph cannot hold.

    Args:
        losses: ``mmseg.models.losses.accuracy``.
    """
    of_mmseg = losses.accuracy

    @functools.wraps(of_mmseg)
    def accuracy(
        pred: Any, target: Any, topk: Any = 1, thresh: Any = None, ignore_index: int | None = None
    ) -> Any:
        if topk != 1 or thresh is not None or ignore_index is None or not len(pred):
            return of_mmseg(pred, target, topk, thresh, ignore_index)
        counted = target != ignore_index
        right = (pred.topk(1, dim=1).indices[:, 0] == target) & counted
        # mmseg's way around a division by 0
        share = (right.sum() + _EPSILON) / (counted.sum() + _EPSILON)
        return 100 * share.float().reshape(1)

    vars(losses).update(accuracy=accuracy)


_EPSILON = 2.0**-23  # of float32


def silence_clip_of_rotated_boxes(boxes: ModuleType) -> None:
    """Suppress mmrotate's warning that its rotated boxes are not clipped, which mtp relies on.

    onedl-mmrotate 1.2.1 gives it in each process, whenever mmdet's transforms ask for it.

    Args:
        boxes: module ``mmrotate.structures.bbox.rotated_boxes``.
    """
    warnings.filterwarnings('ignore', message='The `clip` function does nothing')


def write_null_for_nan(backend: ModuleType) -> None:
    """Let the logs of scalars hold null where a number is not finite.

    onedl-mmengine 0.10.12 writes NaN into ``scalars.json``, which is no JSON.

    Args:
        backend: module ``mmengine.visualization.vis_backend``.
    """
    dump = backend.dump

    @functools.wraps(dump)
    def dump_finite(content: Any, *args: Any, **kwargs: Any) -> Any:
        return dump(finite(content), *args, **kwargs)

    vars(backend).update(dump=dump_finite)


def leave_out_multimodal_models(dependency: ModuleType) -> None:
    """Keep mmpretrain from importing its multi-modal models if transformers 5 is installed.

    onedl-mmpretrain 1.3.6 imports them whenever transformers is installed, by names that
    transformers 5 has removed: ``import mmpretrain.models`` ends in a TypeError, and with it mmdet,
    mmseg and mmrotate. mtp uses none of these models.

    Args:
        dependency: module ``mmpretrain.utils.dependency``.
    """
    if dependency.satisfy_requirement('transformers>=5.0.0'):
        vars(dependency).update(
            WITH_MULTIMODAL=False, register_multimodal_placeholder=_register_left_out
        )


def _register_left_out(names: Sequence[str], registry: Any) -> None:
    def left_out(*args: object, **kwargs: object) -> None:
        version = importlib.metadata.version('transformers')
        raise ImportError(
            "mmpretrain's multi-modal models need transformers 4, and transformers "
            f"{version} is installed: pip install 'transformers>=4.40,<5'"
        )

    for name in names:
        registry.register_module(name=name, module=left_out)


def format_each_config_once(api: ModuleType) -> None:
    """Let yapf return what it made of a text before, instead of formatting it again.

    onedl-mmengine 0.10.12 has it format the whole config for the log, for the dumped file, for each
    visualization backend and for each checkpoint, before training goes on. That of the pretraining
    demo takes 0.7 s.

    Args:
        api: module ``yapf.yapflib.yapf_api``.
    """
    format_code = api.FormatCode

    @functools.lru_cache(maxsize=8)  # the configs of a run and of its encoder
    def formatted(text: str, style: tuple[tuple[str, Any], ...], **settings: Any) -> Any:
        return format_code(text, style_config=dict(style), **settings)

    @functools.wraps(format_code)
    def format_once(unformatted_source: str, *args: Any, **settings: Any) -> Any:
        style = settings.get('style_config')
        if args or not isinstance(style, dict):  # not as mmengine calls it
            return format_code(unformatted_source, *args, **settings)
        del settings['style_config']
        return formatted(unformatted_source, tuple(style.items()), **settings)

    vars(api).update(FormatCode=format_once)


def differentiate_focal_loss_in_one_step(focal_loss: ModuleType) -> None:
    """Let mmcv's focal loss be mtp's operator, unless mmcv's own extension is compiled.

    The function of onedl-mmcv 2.3.6 clears, fills and copies its results, and multiplies by the
    gradient apart: 7 passes over the logits, which take 52 bytes an element in float32. The
    operator has 2, which take 20.

    Args:
        focal_loss: module ``mmcv.ops.focal_loss``.
    """
    from mtp.ops import mmcv_ext

    if mmcv_ext.choice() == 'portable':
        vars(focal_loss).update(sigmoid_focal_loss=mmcv_ext.reduced_focal_loss)


def enlarge_cache_of_sympy() -> None:
    """Let sympy keep the results of more than 1,000 calls of each function.

    torch 2.11.0 simplifies kernel indices with sympy 1.14.0. Its inductor asks for the same results
    again after more than 1,000 other calls; with the default cache, tracing and lowering a
    pretraining step takes a tenth longer.
    """
    os.environ.setdefault('SYMPY_CACHE_SIZE', '200000')


def let_gdal_tell_of_damaged_pngs() -> None:
    """Let GDAL read PNGs row by row.

    GDAL 3.10.3 otherwise decodes a whole PNG at once, and of a file that is cut short returns zeros
    without an error.
    """
    os.environ.setdefault('GDAL_PNG_WHOLE_IMAGE_OPTIM', 'NO')


BEFORE: dict[str, Callable[[], importlib.machinery.ModuleSpec | None]] = {
    'mmengine': refuse_mixed_distributions,
    'mmcv': refuse_mixed_distributions,
    'mmcv._ext': provide_mmcv_extension,
    'sympy': enlarge_cache_of_sympy,
    'rasterio': let_gdal_tell_of_damaged_pngs,
}
AFTER: dict[str, Callable[[ModuleType], None]] = {
    'mmcv.ops.focal_loss': differentiate_focal_loss_in_one_step,
    'mmengine.config.config': find_own_configs,
    'mmengine.logging': silence_notices,
    'mmrotate.structures.bbox.rotated_boxes': silence_clip_of_rotated_boxes,
    'mmengine.visualization.vis_backend': write_null_for_nan,
    'mmseg.models.losses.accuracy': count_accuracy_without_waiting,
    'mmseg.models.losses.cross_entropy_loss': silence_advice_on_cross_entropy,
    'mmpretrain.utils.dependency': leave_out_multimodal_models,
    'yapf.yapflib.yapf_api': format_each_config_once,
}


def setup() -> None:
    """Apply each workaround when its module is imported, or now if it is already."""
    sys.meta_path.insert(0, WorkaroundFinder())
    for name in BEFORE.keys() & sys.modules:
        BEFORE[name]()
    for name in AFTER.keys() & sys.modules:
        AFTER[name](sys.modules[name])


class WorkaroundFinder(importlib.abc.MetaPathFinder):
    """Finder that applies the workarounds of ``BEFORE`` and ``AFTER`` on import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module with a workaround, or None to leave it to other finders."""
        if name in BEFORE:
            return BEFORE[name]()
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in AFTER else None
        if spec is not None and spec.loader is not None:
            execute = functools.partial(_execute, spec.loader.exec_module, AFTER[name])
            spec.loader.exec_module = execute  # type: ignore[method-assign]  # wrapped on purpose
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

    If the safe load fails, onedl-mmengine 0.10.12 loads the file again with ``weights_only=False``,
    which runs any code in the file. A file that it downloads is loaded in that way at once.

    Args:
        load: function that loads a file, given its path and ``map_location``, or raises.
        download: function that loads a file from a web address, with the same arguments.
        refuse: function that raises for an address of another storage, with the same arguments.
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

    # The schemes of model zoos look up an address, and load it through these two.
    checkpoint.load_from_http = download
    checkpoint._safe_torch_load = safe_torch_load


@functools.cache
def support_ordered_effects() -> None:
    """Let inductor keep operators with an ordered effect in order, and cache their code.

    torch 2.11.0 orders them by nodes that it does not mark as cacheable, so a part with
    synchronised batch norm would be compiled again at every start. Inductor also records an
    operator's dependencies under the name of its buffer, but looks them up under the operator's
    own name, so the order is lost.
    """
    from torch._higher_order_ops.effects import with_effects
    from torch._inductor import lowering
    from torch._inductor.virtualized import V

    with_effects._cacheable = True
    lower = lowering.lowerings[with_effects]

    def lower_in_order(*args: Any, **kwargs: Any) -> Any:
        first = len(V.graph.operations)
        result = lower(*args, **kwargs)
        waits = getattr(V.graph, 'additional_star_deps', None)  # missing in older releases
        if waits is not None:
            for operation in V.graph.operations[first:]:
                name = operation.get_name()  # type: ignore[attr-defined]  # each is a Buffer too
                waits[operation.get_operation_name()].update(waits[name])
        return result

    lowering.lowerings[with_effects] = lower_in_order


def onnx_translations() -> dict[Callable, Callable]:
    """Return the ONNX form of ``torch.hypot``, which onnxscript 0.7.2 lacks."""
    import torch
    from onnxscript import opset18 as op

    def hypot(x: Any, y: Any) -> Any:
        return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))

    return {torch.ops.aten.hypot.default: hypot}


def refuse_pickle_bombs(data: bytes) -> None:
    """Refuse a pickle that makes the unpickler take memory without bounds.

    Python 3.11: an index of the memo, which a pickle of a few bytes may set to 2^32, is the number
    of entries for which the unpickler takes memory at once.

    Args:
        data: content of a pickle.

    Raises:
        ValueError: an index is larger than the pickle, or an instruction is damaged.
    """
    for instruction, argument, _ in pickletools.genops(data):
        if instruction.name in ('PUT', 'LONG_BINPUT') and (argument or 0) > len(data):
            raise ValueError(f'its memo has the index {argument:,}, but it has {len(data):,} bytes')


def leave_dead_workers_to_the_loader(batches: Any) -> None:
    """Have a loader's dead worker found by the loader alone, while it waits for a batch.

    torch 2.11: its handler of SIGCHLD raises wherever the main thread is, also within a step of the
    optimiser, after which a run could not go on.

    Args:
        batches: iterator of a ``torch.utils.data.DataLoader``.
    """
    from torch.utils.data._utils import signal_handling

    if getattr(batches, '_worker_pids_set', False):
        signal_handling._remove_worker_pids(id(batches))
        batches._worker_pids_set = False
