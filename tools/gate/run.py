"""Process workloads and kernels in several processes."""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ProcessPoolExecutor, wait
from typing import Any

from tools.gate import report, work
from tools.gate.store import Store


class Run:
    """Run that processes workloads, then kernels, in several processes and a limited time."""

    def __init__(self, store: Store, options: argparse.Namespace) -> None:
        self.store, self.options = store, options
        self.end = time.monotonic() + 60 * options.minutes
        if options.processes == 1:
            work.prepare(store.folder)
            self.pool = InThisProcess()
        else:
            self.pool = ProcessPoolExecutor(
                options.processes,
                multiprocessing.get_context('spawn'),
                work.prepare,
                (store.folder,),
            )

    def everything(self) -> None:
        """Trace and lower; compile the project's kernels, inductor's, the heaviest for others."""
        capabilities = tuple(self.options.capabilities)
        try:
            self._all(
                (work.trace, name, capabilities)
                for name in self.options.workloads
                if not self.store.rows(name)['step']
            )
            self._all(self._own())
            self._all(self._kernels())
            self._all(self._heaviest())
        finally:
            self.pool.shutdown(wait=time.monotonic() < self.end, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()

    def _all(self, jobs: Iterator[tuple]) -> None:
        """Run jobs, which write their own results, until the time is over."""
        pending: set[Future] = set()
        for function, *args in jobs:
            if time.monotonic() < self.end:
                pending.add(self.pool.submit(function, self.store.folder, *args))
        done, _ = wait(pending, max(0, self.end - time.monotonic()), FIRST_EXCEPTION)
        for future in done:
            future.result()

    def _every(self) -> list[int]:
        return list(dict.fromkeys([*self.options.capabilities, *self.options.others]))

    def _own(self) -> Iterator[tuple]:
        done = self.store.kernels()
        for key, launch in report.own_launches(self.store, self.options.workloads).items():
            for capability in self._every():
                if (key, capability) not in done:
                    yield work.compile_own, launch, capability

    def _kernels(self) -> Iterator[tuple]:
        done = self.store.kernels()
        for capability in self.options.capabilities:
            keys = {
                key: None
                for rows in report.graphs_of(self.store, self.options.workloads)
                for graph in rows
                if graph['capability'] == capability
                for key in graph['kernels']
            }
            for key in keys:
                if (key, capability) not in done:
                    yield work.compile_kernel, key, capability

    def _heaviest(self) -> Iterator[tuple]:
        missing = report.heaviest_missing(
            self.store, self.options.workloads, self.options.capabilities, self.options.others
        )
        for capability, keys in missing.items():
            for key in keys:
                yield work.compile_kernel, key, capability


class InThisProcess(Executor):
    """Executor that runs each job at once."""

    def submit(self, function: Callable, /, *args: Any) -> Future:
        future = Future()
        future.set_result(function(*args))
        return future
