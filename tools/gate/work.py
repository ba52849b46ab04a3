"""Jobs of the gate's processes: trace and lower a workload, compile a kernel."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.logging import MMLogger
from torch.testing._internal.distributed.fake_pg import FakeStore

from mtp.fallback import reason_in_a_line
from tools.gate.devices import DEVICES
from tools.gate.finetune import finetune
from tools.gate.kernels import compile_each, compile_inductor
from tools.gate.lower import Lowering
from tools.gate.own import Launch, compiler_of, key_of
from tools.gate.pretrain import pretrain
from tools.gate.store import Store
from tools.gate.trace import Tracer
from tools.gate.workloads import WORKLOADS, Finetuning, Pretraining

STEPS = {Pretraining: pretrain, Finetuning: finetune}


def prepare(folder: Path) -> None:
    """Set up a process: one thread, no Triton cache, output of compilers to a log."""
    torch.set_num_threads(1)
    os.environ['TRITON_ALWAYS_COMPILE'] = '1'
    log = os.open(folder / 'compilers.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stderr.fileno())
    MMLogger.get_instance('gate', log_level='WARNING')  # becomes the logger of the libraries


def trace(folder: Path, name: str, capabilities: tuple[int, ...]) -> None:
    """Trace and lower a workload into the store."""
    store, workload = Store(folder), WORKLOADS[name]
    store.begin(name)

    def keep_launch(launch: Launch) -> None:
        if not workload.only:  # the launches of the other workloads are part of a whole step
            store.add(name, 'own', launch)

    lowering = Lowering(
        [DEVICES[c] for c in capabilities],
        store.graphs(),
        lambda row: store.add(name, 'graph', row),
        store.keep_source,
        keep_launch,
    )
    tracer = Tracer(lowering, set(workload.only))
    launches, kept = {}, None
    try:
        with nullcontext() if workload.processes == 'one' else group_of_two():
            launches, kept = STEPS[type(workload)](workload, tracer)
    except Exception as error:  # an error of the step is a result of the gate
        traceback.print_exc()
        tracer.breaks['the step itself'] = reason_in_a_line(error)
    for row in tracer.rows:
        store.add(name, 'trace', row)
    for part, reason in tracer.breaks.items():
        store.add(name, 'break', dict(part=part, reason=reason))
    store.add(name, 'step', dict(uncompiled=launches, kept=kept))
    torch._dynamo.reset()


@contextmanager
def group_of_two() -> Iterator[None]:
    """Act as the first of two processes without the second."""
    dist.init_process_group('fake', store=FakeStore(), rank=0, world_size=2)
    try:
        yield
    finally:
        dist.destroy_process_group()


def compile_kernel(folder: Path, key: str, capability: int) -> None:
    """Compile a kernel that inductor wrote."""
    store = Store(folder)
    found = compile_inductor(store.source(key), DEVICES[capability])
    store.add_kernel(dict(key=key, capability=capability, **asdict(found)))


def compile_own(folder: Path, launch: Launch, capability: int) -> None:
    """Compile one of the project's kernels as a launch specialises it."""
    device = DEVICES[capability]
    found = compile_each([compiler_of(launch, device)], device)
    Store(folder).add_kernel(dict(key=key_of(launch), capability=capability, **asdict(found)))
