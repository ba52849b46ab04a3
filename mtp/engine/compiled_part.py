"""A method that runs compiled until its compiler fails, and uncompiled from then on."""

import copy
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import torch
from mmengine.logging import MMLogger, print_log
from torch._higher_order_ops.effects import has_effects
from torch._ops import OpOverloadPacket
from torch.fx import GraphModule

from mtp.engine.console_log import FILE_ONLY
from mtp.engine.joined_sums import JoinedSums
from mtp.fallback import fall_back


class PartKind:
    """State of a compiled method that all modules of one class share.

    Args:
        name: ``'<class>.<method>'``.
        backend: name of a backend of ``torch.compile``.

    Attributes:
        name: name of the method, as given.
        backend: function that compiles a traced graph.
        failed: True once the compiler has failed; the method then runs uncompiled.
        seconds: compile time of each graph in seconds, forward and backward together.
    """

    def __init__(self, name: str, backend: str) -> None:
        self.name = name
        self.failed = False
        self.seconds: list[float] = []
        self.backend = torch._dynamo.lookup_backend(backend)

    def lower(self, graph: GraphModule, inputs: list[Any]) -> Callable:
        """Compile a traced graph for ``torch.compile``, and log the name and the time."""
        logger = MMLogger.get_current_instance()
        logger.info(f'Compiling {self.name} ...', **FILE_ONLY)
        begun = time.perf_counter()
        with _turn_on_this_machine(self.name), training_settings(graph):
            compiled = self.backend(graph, inputs)
        self.seconds.append(time.perf_counter() - begun)
        logger.info(f'Compiled {self.name} in {self.seconds[-1]:.1f} s', **FILE_ONLY)
        return compiled


class CompiledPart:
    """A method of a module that runs compiled until its compiler fails.

    The whole method is compiled, forward and backward together, so a failure comes before any of it
    has run: the uncompiled method then does the same step from the same state.

    Args:
        method: bound method of a module.
        kind: state shared with the modules of the same class.
    """

    def __init__(self, method: Callable, kind: PartKind) -> None:
        self.kind = kind
        self._uncompiled = method
        self._compiled = compile_method(method, kind.lower)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
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
    """Return a method that is compiled as one graph, without breaks.

    Shapes are static, except where they are marked as dynamic. If Dynamo detected dynamic shapes
    itself, it would compare the modules of two classes that inherit the same method, and compile
    the second one for unknown sizes, which takes several times as long.
    """
    return torch.compile(method, fullgraph=True, dynamic=False, backend=backend)


@contextmanager
def training_settings(graph: GraphModule) -> Iterator[None]:
    """Set what inductor and AOTAutograd shall do with a graph of training."""
    with (
        cheap_recomputation(graph),
        torch._inductor.config.patch(post_grad_custom_post_pass=JoinedSums()),
    ):
        yield


def cheap_recomputation(graph: GraphModule) -> AbstractContextManager:
    """Return a context in which a graph's backward pass computes again what costs little.

    Norms, activations and casts of weights cost no more than reading them. Kept are results of
    products, of attention and of mtp's operators. A graph with ordered effects, such as statistics
    over all processes, keeps torch's choice: torch 2.11 loses count of its tokens otherwise.
    """
    parts = [part for part in graph.modules() if isinstance(part, GraphModule)]
    operators = {node.target for part in parts for node in part.graph.nodes}
    packets = {each for each in operators if isinstance(each, OpOverloadPacket)}
    operators |= {getattr(packet, name) for packet in packets for name in packet.overloads()}
    if any(map(has_effects, operators)):
        return nullcontext()
    return torch._functorch.config.patch(
        aggressive_recomputation=True, is_non_builtin_to_include=True
    )


def _is_of_the_compiler(error: Exception) -> bool:
    """Return whether an error comes from tracing or lowering, not from running the code."""
    from torch._dynamo import exc  # takes 0.7 s to import

    return isinstance(error, exc.TorchDynamoException | exc.FailOnRecompileLimitHit)


@contextmanager
def _turn_on_this_machine(name: str) -> Iterator[None]:
    """Let one process of this machine compile a part first; the others then find it in the cache.

    Those others read the cache at the same time.
    """
    folder = Path(tempfile.gettempdir()) / f'mtp_compile_{os.getuid()}'
    key = hashlib.sha256(f'{os.environ.get("TORCHINDUCTOR_CACHE_DIR")} {name}'.encode())
    with ExitStack() as stack:
        try:
            folder.mkdir(exist_ok=True)
            lock = stack.enter_context(open(folder / f'{key.hexdigest()[:16]}.lock', 'w'))
            _lock(lock)
        except OSError as error:  # then every process compiles
            print_log(
                f'Processes do not take turns to compile: {error}', 'current', logging.WARNING
            )
        yield


def _lock(file: TextIO) -> None:
    """Take an exclusive lock of a file if it is free, else wait for a shared one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(file, fcntl.LOCK_SH)
