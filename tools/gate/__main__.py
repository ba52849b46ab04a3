"""Compile, on a machine without a GPU, all that training compiles on one; launch nothing.

    python -m tools.gate                     # everything, for capabilities 9.0 and 8.6
    python -m tools.gate 'vit_b_rvsa one' --capabilities 90
    python -m tools.gate --report            # the table of what has been found so far

Steps of training are traced on tensors without numbers; each graph is lowered by inductor and each
kernel compiled by Triton as if a GPU were there. What is found is written line by line below
--out, and a run that was ended goes on from there. Exits with 1 where a part breaks into several
graphs, inductor does not lower one, or no configuration of a kernel can run.
"""
import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

os.environ.pop('TRITON_INTERPRET', None)  # which makes Triton's own library uncompilable

from tools.gate import report, work  # noqa: E402
from tools.gate.devices import DEVICES  # noqa: E402
from tools.gate.store import Store  # noqa: E402
from tools.gate.workloads import WORKLOADS  # noqa: E402

HEAVIEST = 10  # kernels of a part that are compiled for the other capabilities


def main() -> None:
    options = parse()
    store = Store(options.out)
    if not options.report:
        Run(store, options).everything()
    found = report.collect(store, options.workloads, options.capabilities, options.others)
    print(report.table(found), report.own_table(found), sep='\n\n')
    print(report.faults(found))
    sys.exit(found.failed)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.gate', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('workloads', nargs='*', metavar='WORKLOAD',
                        default=[name for name in WORKLOADS if name != 'quick'],
                        help=f'of {", ".join(WORKLOADS)}; default: all but quick, which is for '
                        'the test suite')
    parser.add_argument('--capabilities', nargs='+', type=int, default=[90, 86], choices=DEVICES,
                        help='for which all is lowered and compiled (default: 90 86)')
    parser.add_argument('--others', nargs='*', type=int, default=list(DEVICES), choices=DEVICES,
                        help=f"for which the {HEAVIEST} heaviest kernels of each part and the "
                        "project's own are compiled (default: all)")
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gate'),
                        help='folder of the results (default: work_dirs/gate)')
    parser.add_argument('--minutes', type=float, default=45, help='after which to stop')
    parser.add_argument('--processes', type=int, default=2, help='1: no further ones')
    parser.add_argument('--report', action='store_true', help='run nothing')
    options = parser.parse_args()
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f'no workload {", ".join(sorted(unknown))}: choose of {", ".join(WORKLOADS)}')
    return options


class Run:
    """Works off workloads, then kernels, in some processes and a time."""

    def __init__(self, store: Store, options: argparse.Namespace) -> None:
        self.store, self.options = store, options
        self.end = time.monotonic() + 60 * options.minutes
        if options.processes == 1:
            work.prepare(store.folder)
            self.pool = InThisProcess()
        else:
            self.pool = ProcessPoolExecutor(
                options.processes, multiprocessing.get_context('spawn'), work.prepare,
                (store.folder,))

    def everything(self) -> None:
        """Trace and lower; compile the project's kernels, inductor's, the heaviest for others."""
        capabilities = tuple(self.options.capabilities)
        try:
            self._all((work.trace, name, capabilities) for name in self.options.workloads
                      if not self.store.rows(name)['step'])
            self._all(self._own())
            self._all(self._kernels())
            self._all(self._heaviest())
        finally:
            self.pool.shutdown(wait=time.monotonic() < self.end, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()

    def _all(self, jobs: Iterator[tuple]) -> None:
        """Do jobs until the time is over; they write what they find."""
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
            keys = {key: None for rows in report.graphs_of(self.store, self.options.workloads)
                    for graph in rows if graph['capability'] == capability
                    for key in graph['kernels']}
            for key in keys:
                if (key, capability) not in done:
                    yield work.compile_kernel, key, capability

    def _heaviest(self) -> Iterator[tuple]:
        done = self.store.kernels()
        first = self.options.capabilities[0]
        for capability in self._every()[len(self.options.capabilities):]:
            for key in report.heaviest(self.store, self.options.workloads, first, HEAVIEST):
                if (key, capability) not in done:
                    yield work.compile_kernel, key, capability


class InThisProcess(Executor):
    """Does each job at once."""

    def submit(self, function: Callable, /, *args: Any) -> Future:
        future = Future()
        future.set_result(function(*args))
        return future


if __name__ == '__main__':
    main()
