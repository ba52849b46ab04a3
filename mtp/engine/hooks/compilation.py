"""Regional ``torch.compile``: backbone blocks, and the methods that modules list."""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from mmengine.dist import get_rank, get_world_size, is_distributed
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.distributed import PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

from mtp import compat
from mtp.engine.compiled_part import CompiledPart, PartKind
from mtp.engine.hooks.deferred_log import is_log_step
from mtp.engine.parallel import unwrap
from mtp.fallback import fall_back
from mtp.models.backbones import Backbone
from mtp.registry import HOOKS

# Compiled versions of a method: one per number of classes or combination of data sets, and size.
MOST_VERSIONS = 256


@HOOKS.register_module()
class CompileHook(Hook):
    """Hook that compiles the parts of a model when training starts; validation runs uncompiled.

    The blocks of a backbone differ only in their weights, so all blocks of the same kind and shape
    share their compiled code, and a run starts within minutes. The module tree, parameter names and
    checkpoints do not change.

    A part whose compilation fails runs uncompiled from then on, with a warning
    (:mod:`mtp.fallback`): immediately on its own process, from the next log line on the others.

    Args:
        mode: ``'auto'``: compile on a GPU; ``'on'``; ``'off'``. Without Triton or a C compiler the
            model stays uncompiled, with a warning.
        backend: name of a backend of ``torch.compile``.
        cache_dir: folder of the compiled code, with which the next run of the same config starts
            faster; default: ``compile_cache`` beside the work directory. The environment variable
            ``TORCHINDUCTOR_CACHE_DIR`` takes precedence.

    Raises:
        ValueError: ``mode`` has another value.
    """

    def __init__(
        self, mode: str = 'auto', backend: str = 'inductor', cache_dir: str | None = None
    ) -> None:
        if mode not in ('auto', 'on', 'off'):
            raise ValueError(f"mode={mode!r}: must be 'auto', 'on' or 'off'")
        self.mode = mode
        self.backend = backend
        self.cache_dir = cache_dir
        self.kinds: dict[str, PartKind] = {}
        self._shared: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Mark the parts for compilation; each is compiled at its first call."""
        model = unwrap(runner.model)
        on_gpu = next(model.parameters()).is_cuda
        if self.mode == 'off' or self.mode == 'auto' and not on_gpu:
            return
        reason = what_is_missing(on_gpu) if self.backend == 'inductor' else None
        if reason:
            fall_back('torch.compile', 'the model runs uncompiled', reason)
            return
        cache_dir = self.cache_dir or Path(runner.work_dir).absolute().parent / 'compile_cache'
        os.environ.setdefault('TORCHINDUCTOR_CACHE_DIR', str(cache_dir))
        self.kinds = compile_parts(model, self.backend)
        runner.logger.info(
            f'{len(self.kinds)} kinds of parts are compiled when they first run: the first '
            'iterations take longer'
        )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Stop using compiled parts that have failed on any process, at a log line."""
        if self.kinds and is_distributed() and is_log_step(runner, batch_idx):
            mine = {name for name, kind in self.kinds.items() if kind.failed}
            store = PrefixStore(f'mtp/compile/{runner.iter}', _get_default_store())
            for name, rank in share(store, mine - self._shared).items():
                self.kinds[name].failed = True
                self._shared.add(name)
                if name not in mine:
                    runner.logger.warning(
                        f'{name} runs uncompiled from now on, since its '
                        f'compilation failed on process {rank}'
                    )

    def before_val(self, runner: Runner) -> None:
        """Run uncompiled: validation images vary in size, and each size would be compiled."""
        torch.compiler.set_stance('force_eager')

    def after_val(self, runner: Runner) -> None:
        """Use the compiled parts again."""
        torch.compiler.set_stance('default')


def share(store: Store, names: set[str]) -> dict[str, int]:
    """Exchange names among all processes without the device; each process must call it.

    Args:
        store: store of the process group, with a prefix that is used only once.
        names: names of this process.

    Returns:
        dict[str, int]: name of any process -> rank of a process that has it.
    """
    if names:
        number = store.add('lists', 1)
        store.set(f'list/{number}', json.dumps([get_rank(), *sorted(names)]))
    if store.add('arrived', 1) == get_world_size():
        store.set('all have arrived', '')
    store.wait(['all have arrived'])
    found: dict[str, int] = {}
    for number in range(1, store.add('lists', 0) + 1):
        rank, *theirs = json.loads(store.get(f'list/{number}'))
        found |= dict.fromkeys(theirs, rank)
    return found


def what_is_missing(on_gpu: bool) -> str | None:
    """Return why ``torch.compile`` cannot run on this machine, or None if it can."""
    if on_gpu and importlib.util.find_spec('triton') is None:
        return 'torch.compile needs Triton, which is not installed (pip install triton)'
    # Triton builds its launchers with the C compiler, torch its CPU kernels with the C++ compiler.
    variable, names = ('CC', ('gcc', 'clang')) if on_gpu else ('CXX', ('g++', 'clang++'))
    if not os.environ.get(variable) and not any(map(shutil.which, names)):
        return (
            f'torch.compile needs a compiler, and neither {" nor ".join(names)} is on the '
            f'PATH, nor does {variable} name one: install one'
        )
    return None


def compile_parts(model: nn.Module, backend: str) -> dict[str, PartKind]:
    """Compile the parts of a model in place.

    Args:
        model: model with a ``backbone`` of mtp; its modules list further methods to compile in
            ``compiled_methods``.
        backend: name of a backend of ``torch.compile``.

    Returns:
        dict[str, PartKind]: name of a part -> state that its modules share.
    """
    if backend == 'inductor':
        compat.support_ordered_effects()
    set_up_compiler()
    kinds: dict[str, PartKind] = {}
    for module, method in parts(model):
        name = f'{type(module).__name__}.{method}'
        kind = kinds.setdefault(name, PartKind(name, backend))
        # The method, not the module: hooks of DDP and FSDP stay outside the compiled code.
        setattr(module, method, CompiledPart(getattr(module, method), kind))
    return kinds


def set_up_compiler() -> None:
    """Set what all compiled parts need of Dynamo and AOTAutograd."""
    # If compiling the backward pass fails, it must do so before the forward pass has any effect.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    # Otherwise DDP would split the parts at the ends of its gradient buckets.
    torch._dynamo.config.optimize_ddp = False
    torch._dynamo.config.recompile_limit = MOST_VERSIONS


def parts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield (module, method name) of each part of a model that is compiled.

    The convolutions of necks and heads stay uncompiled: compiling them takes longer than all other
    parts together, and saves no kernel launches
    (docs/benchmarks/compiled_without_gpu_2026-11-29.md).
    """
    for block in cast(Backbone, model.backbone).compiled_parts():
        yield block, 'forward'
    for module in model.modules():
        for method in getattr(module, 'compiled_methods', ()):
            yield module, method
