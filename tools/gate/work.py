"""What the gate's processes do: trace and lower a workload, compile a kernel."""
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

import torch

from mtp.fallback import reason_in_a_line
from tools.gate.devices import DEVICES
from tools.gate.kernels import compile_inductor
from tools.gate.lower import Lowering
from tools.gate.store import Store
from tools.gate.trace import Tracer
from tools.gate.workloads import WORKLOADS


def prepare(folder: Path) -> None:
    """Set up a process: one thread, no cache of Triton's, compilers write to a log."""
    torch.set_num_threads(1)
    os.environ['TRITON_ALWAYS_COMPILE'] = '1'
    log = os.open(folder / 'compilers.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())


def trace(folder: Path, name: str, capabilities: tuple[int, ...]) -> None:
    """Trace and lower a workload into the store."""
    store, workload = Store(folder), WORKLOADS[name]
    store.begin(name)
    lowering = Lowering([DEVICES[c] for c in capabilities], store.graphs(),
                        lambda row: store.add(name, 'graph', row), store.keep_source)
    tracer = Tracer(lowering, set(workload.only))
    launches = {}
    try:
        launches = workload.run(tracer)
    except Exception as error:  # one of the things that the gate is to find
        traceback.print_exc()
        tracer.breaks['the step itself'] = reason_in_a_line(error)
    for row in tracer.rows:
        store.add(name, 'trace', row)
    for part, reason in tracer.breaks.items():
        store.add(name, 'break', dict(part=part, reason=reason))
    store.add(name, 'step', dict(uncompiled=launches))
    torch._dynamo.reset()


def compile_kernel(folder: Path, key: str, capability: int) -> dict:
    """Compile a kernel that inductor wrote; return its row."""
    found = compile_inductor(Store(folder).source(key), DEVICES[capability])
    return dict(key=key, capability=capability, **asdict(found))
