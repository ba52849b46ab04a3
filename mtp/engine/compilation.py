"""Regional ``torch.compile``: a model's blocks, necks and heads, each by itself."""
import importlib.util
import os
import shutil
from collections.abc import Iterator

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mtp.registry import HOOKS

# Parts of the libraries' models by the names that they have there, and the method to compile.
HEADS = {'neck': 'forward', 'decode_head': '_forward_feature', 'rpn_head': 'forward',
         'bbox_head': 'forward', 'mask_head': 'forward'}


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the parts of a model when training starts; validation runs without.

    The blocks of a backbone differ in their weights alone, so that they share one compiled code
    per kind of block and shape, and a run starts within minutes. The module tree, parameter names
    and checkpoints stay as they are.

    Args:
        mode: ``'auto'``: on a GPU, where Triton and a C compiler are found; ``'on'``; ``'off'``.
        backend: of ``torch.compile``.

    Raises:
        ValueError: another ``mode``; in ``before_train``, ``mode='on'`` where a compiler lacks.
    """

    def __init__(self, mode: str = 'auto', backend: str = 'inductor') -> None:
        if mode not in ('auto', 'on', 'off'):
            raise ValueError(f"mode={mode!r}: must be 'auto', 'on' or 'off'")
        self.mode = mode
        self.backend = backend

    def before_train(self, runner: Runner) -> None:
        """Compile; the code itself is made at the first call of each part."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        on_gpu = next(model.parameters()).is_cuda
        if self.mode == 'off' or self.mode == 'auto' and not on_gpu:
            return
        reason = what_lacks(on_gpu) if self.backend == 'inductor' else None
        if reason and self.mode == 'on':
            raise ValueError(f'compile: {reason}. Install it, or leave out --compile')
        if reason:
            runner.logger.warning(f'The model is not compiled: {reason}. Training is slower')
            return
        count = compile_parts(model, self.backend)
        runner.logger.info(f'{count} parts of the model are compiled when they first run: the '
                           'first iterations take longer')

    def before_val(self, runner: Runner) -> None:
        """Images of a validation may have any size: each would be compiled for."""
        torch.compiler.set_stance('force_eager')

    def after_val(self, runner: Runner) -> None:
        """Go on with compiled parts."""
        torch.compiler.set_stance('default')


def what_lacks(on_gpu: bool) -> str | None:
    """What ``torch.compile`` needs on this machine and does not find, None if nothing lacks."""
    if on_gpu and importlib.util.find_spec('triton') is None:
        return 'torch.compile needs Triton, which is not installed (pip install triton)'
    # Triton builds its launchers with the first, torch its kernels for CPUs with the second
    variable, names = ('CC', ('gcc', 'clang')) if on_gpu else ('CXX', ('g++', 'clang++'))
    if not os.environ.get(variable) and not any(map(shutil.which, names)):
        return (f'torch.compile needs a compiler, and neither {" nor ".join(names)} is on the '
                f'PATH, nor does {variable} name one')
    return None


def compile_parts(model: nn.Module, backend: str) -> int:
    """Compile the parts of a model in place.

    Args:
        model: with a ``backbone`` of mtp, and heads of OpenMMLab anywhere; modules name further
            methods to compile in ``compiled_methods``.
        backend: of ``torch.compile``.

    Returns:
        int: how many parts.
    """
    parts = list(_parts(model))
    for module, method, dynamic in parts:
        # The method, not the module: hooks of DDP and FSDP stay outside the compiled code.
        setattr(module, method, torch.compile(
            getattr(module, method), backend=backend, dynamic=dynamic))
    return len(parts)


def _parts(model: nn.Module) -> Iterator[tuple[nn.Module, str, bool | None]]:
    """Module, method, and whether its code takes other shapes (None: from the second on)."""
    for block in model.backbone.compiled_parts():
        yield block, 'forward', False
    for path, module in model.named_modules():
        for method in getattr(module, 'compiled_methods', ()):
            yield module, method, None
        method = HEADS.get(path.rpartition('.')[2])
        if method is not None and not path.startswith('backbone.'):
            yield module, method if hasattr(module, method) else 'forward', None
