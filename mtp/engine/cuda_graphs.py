"""CUDA graphs of a function without arguments."""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch


class Recorder(Protocol):
    """Makes a repetition of a function that reads and writes the same memory each time."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Return what does the device's part of ``function`` again.

        The function itself runs once, without an effect on what it computes with.
        """

    def apart(self) -> AbstractContextManager:
        """Return a context for runs before a recording, which leave nothing in its way."""

    def report(self) -> str:
        """Return a clause about what was recorded so far."""


class CUDAGraphs:
    """Recorder of CUDA graphs, whose temporary memory is shared.

    Attributes:
        nodes: number of nodes of each graph; None where it is not known.
        seconds: time that recording took.
        memory: bytes that recording reserved.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self.nodes: list[int | None] = []
        self.seconds = 0.0
        self.memory = 0

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record a function; see :class:`Recorder`."""
        begin, before = time.perf_counter(), torch.cuda.memory_reserved()
        torch.cuda.synchronize()
        gc.collect()  # a tensor that is freed while recording may be one from before
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        # other threads, those of loaders and checkpoints, may use the device meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode='thread_local'):
            function()
        self.nodes.append(count_nodes(graph.raw_cuda_graph()))
        graph.instantiate()
        self.seconds += time.perf_counter() - begin
        self.memory += torch.cuda.memory_reserved() - before
        return graph.replay

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Run on another stream than the default one, as torch demands of runs before a capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def report(self) -> str:
        """Return number, nodes, time and memory of the graphs."""
        nodes = ', '.join('?' if number is None else f'{number:,}' for number in self.nodes)
        return (
            f'{len(self.nodes)} CUDA graphs of {nodes} nodes, recorded in {self.seconds:.1f} s, '
            f'{self.memory / 2**20:,.0f} MiB'
        )


def count_nodes(graph: int) -> int | None:
    """Return the number of nodes of a ``cudaGraph_t``; None where the runtime is not found.

    torch has no function for it.
    """
    try:
        mapped = Path('/proc/self/maps').read_text().split()
        library = ctypes.CDLL(next(path for path in mapped if '/libcudart.so' in path))
        number = ctypes.c_size_t()
        failed = library.cudaGraphGetNodes(ctypes.c_void_p(graph), None, ctypes.byref(number))
    except (AttributeError, OSError, StopIteration):
        return None
    return None if failed else number.value
