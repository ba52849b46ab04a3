"""A method that runs compiled, and uncompiled from the first failure of the compiler on."""

import copy
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from mmengine.logging import print_log
from torch.fx import GraphModule

from mtp.fallback import fall_back


class PartKind:
    """What the modules of one class share of a compiled method: compiled code, and its failure.

    Args:
        name: ``'<class>.<method>'``.
        backend: name of a backend of ``torch.compile``.

    Attributes:
        name: as given.
        backend: what compiles a traced graph.
        failed: whether the method runs uncompiled from now on.
        seconds: that each of its graphs took to compile, forward and backward together.
    """

    def __init__(self, name: str, backend: str) -> None:
        self.name = name
        self.failed = False
        self.seconds: list[float] = []
        self.backend = torch._dynamo.lookup_backend(backend)

    def lower(self, graph: GraphModule, inputs: list[Any]) -> Callable:
        """Compile a traced graph, and log its name and time; what ``torch.compile`` calls."""
        print_log(f'Compiling {self.name} ...', 'current')
        begun = time.perf_counter()
        with _turn_on_this_machine(self.name):
            compiled = self.backend(graph, inputs)
        self.seconds.append(time.perf_counter() - begun)
        print_log(f'Compiled {self.name} in {self.seconds[-1]:.1f} s', 'current')
        return compiled


class CompiledPart:
    """A method of a module that runs compiled until its compiler fails.

    The method is compiled whole, forward and backward together, so that a failure comes before
    anything of it has run: the uncompiled method then does the same step from the same state.

    Args:
        method: a module's bound method.
        kind: what it shares with modules of the same class.
    """

    def __init__(self, method: Callable, kind: PartKind) -> None:
        self.kind = kind
        self._uncompiled = method
        self._compiled = compile_method(method, kind.lower)

    def __call__(self, *args, **kwargs) -> Any:
        if self.kind.failed:
            return self._uncompiled(*args, **kwargs)
        try:
            return self._compiled(*args, **kwargs)
        except Exception as error:
            if not _is_of_the_compiler(error):
                raise
            failure = error
        # An error of the method itself ends here, as it would without compilation.
        result = self._uncompiled(*args, **kwargs)
        self.kind.failed = True
        fall_back(
            self.kind.name, 'it runs uncompiled', getattr(failure, 'inner_exception', failure)
        )
        return result

    def __deepcopy__(self, memo: dict) -> Callable:
        """Return the copied module's own method: a copy of a model runs uncompiled."""
        return copy.deepcopy(self._uncompiled, memo)


def compile_method(method: Callable, backend: Callable) -> Callable:
    """Return a method compiled whole.

    Shapes are those of a recipe, or marked where they vary. Left to find what varies, Dynamo would
    compare the modules of two classes that inherit a method, and compile the second one's for
    unknown sizes, which takes several times as long.
    """
    return torch.compile(method, fullgraph=True, dynamic=False, backend=backend)


def _is_of_the_compiler(error: Exception) -> bool:
    """Return whether an error is of tracing, lowering or kernels, and not of the code they made."""
    from torch._dynamo import exc  # which takes 0.7 s to import

    return isinstance(error, exc.TorchDynamoException | exc.FailOnRecompileLimitHit)


@contextmanager
def _turn_on_this_machine(name: str) -> Iterator[None]:
    """Let the first process of this machine compile a part; the others then find it in the cache.

    They all look there at the same time.
    """
    folder = Path(tempfile.gettempdir()) / f'mtp_compile_{os.getuid()}'
    key = hashlib.sha256(f'{os.environ.get("TORCHINDUCTOR_CACHE_DIR")} {name}'.encode())
    with ExitStack() as stack:
        try:
            folder.mkdir(exist_ok=True)
            lock = stack.enter_context(open(folder / f'{key.hexdigest()[:16]}.lock', 'w'))
            _lock(lock)
        except OSError as error:  # they all compile then
            print_log(
                f'Processes do not take turns to compile: {error}', 'current', logging.WARNING
            )
        yield


def _lock(file: TextIO) -> None:
    """Lock a file alone if nobody has it, else wait and share it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(file, fcntl.LOCK_SH)
