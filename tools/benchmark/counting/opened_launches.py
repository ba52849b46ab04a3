"""Count what mtp's operators launch on a GPU inside their code, without a GPU."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from triton.runtime.interpreter import GridExecutor
from triton.runtime.jit import JITFunction

from mtp.ops import dispatch

from .launches import LaunchCounter


class _OpenedLaunchCounter(LaunchCounter):
    """Counter that counts what the code of mtp's operators launches, in the operators' place."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == 'mtp':
            with self:
                return func._op_dk(torch.DispatchKey.CPU, *args, **kwargs)
        if func._can_decompose():  # below autograd composite operators arrive whole
            with self:
                return func.decompose(*args, **kwargs)
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def opened_launches() -> Iterator[LaunchCounter]:
    """Count launches on CPU tensors, with the operators of mtp opened and their kernels taken.

    A Triton kernel is counted as ``triton::<its name>`` and not run: what it would have written
    holds anything, so that only the count is of use.
    """
    counter = _OpenedLaunchCounter()

    def note(kernel: JITFunction | GridExecutor, *_args: Any, **_kwargs: Any) -> None:
        name = kernel.fn.__name__
        counter.launches[f'triton::{name}', kernel.fn.__module__] += 1

    with ExitStack() as stack:
        stack.enter_context(patch.object(dispatch, '_reason_against', lambda *_: None))
        # skip the checks of values, which the operators make only on a CPU
        stack.enter_context(patch.object(torch.compiler, 'is_compiling', lambda: True))
        stack.enter_context(patch.object(JITFunction, 'run', note))
        stack.enter_context(patch.object(GridExecutor, '__call__', note))
        yield stack.enter_context(counter)
