"""Lower graphs by inductor for a missing GPU; kernels are written, not compiled."""

import copy
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch._functorch.config as functorch
import torch._inductor.config as inductor
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch._higher_order_ops.effects import with_effects
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._subclasses.fake_tensor import FakeTensor

from mtp.engine.compiled_part import training_settings
from mtp.fallback import reason_in_a_line
from tools.gate import backward, own
from tools.gate.devices import Device
from tools.gate.kept import HandedOn, handed_on
from tools.gate.presence import present

# Calls of a lowered graph: its kernels, library calls and unfused operators, copies, and what a
# kernel of two reductions leaves to torch (_codegen_mix_order_reduction): sums of parts, and casts.
CALLS = re.compile(
    r'(?P<kernel>\w+)\.run\(|\b(?:extern_kernels|torch\.ops|aten)\.(?P<op>[\w.]+)\('
    r'|\.(?P<method>copy_|fill_|zero_|sum|prod|amin|amax|to)\('
)
CUDA = torch.device('cuda', 0)


def processor_seconds() -> float:
    """Return processor seconds of this process and of the compilers that it has started."""
    return sum(os.times()[:4])


@dataclass
class Lowered:
    """A graph of AOTAutograd as inductor lowered it for one device.

    Attributes:
        key: hash of the graph and the device; equal graphs have equal keys.
        capability: compute capability of the device.
        backward: whether the graph is a backward pass.
        nodes: number of nodes of the graph.
        seconds: processor time of lowering, seconds, without the compilation of kernels.
        kernels: key -> name of each kernel.
        calls: operator or ``'triton'`` -> number of calls when the graph runs once; for an operator
            of mtp the number of its kernel launches.
        refused: reason why inductor did not lower the graph, or None.
    """

    key: str
    capability: int
    backward: bool
    nodes: int
    seconds: float = 0.0
    kernels: dict[str, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    refused: str | None = None


class Lowering:
    """Backend that lowers graphs for several devices, each graph once.

    Args:
        targets: devices to lower for.
        known: key -> graph that this run or an earlier one has already lowered.
        keep: function that stores each new :class:`Lowered`, given as a dict.
        keep_source: function that stores the source of a kernel, given after its key.
        keep_launch: function that stores a launch of one of the project's own kernels.

    Attributes:
        handed_on: what the forward pass of the last graph hands to its backward pass; None where it
            has none.
    """

    def __init__(
        self,
        targets: list[Device],
        known: dict[str, dict],
        keep: Callable[[dict], None],
        keep_source: Callable[[str, str], None],
        keep_launch: Callable[[own.Launch], None],
    ) -> None:
        self.targets, self.known, self.keep = targets, known, keep
        self.keep_source, self.keep_launch = keep_source, keep_launch
        self.seconds = 0.0
        self.keys: list[str] = []
        self.handed_on: HandedOn | None = None

    def __call__(self, graph: fx.GraphModule, inputs: list[Any]) -> tuple[list[str], float]:
        """Lower a graph of Dynamo and its backward pass.

        Returns:
            tuple: keys of the lowered graphs, and the seconds of AOTAutograd.
        """
        self.keys, self.seconds, self.handed_on = [], 0.0, None
        begun = processor_seconds()
        graph, inputs = on_cuda(graph, inputs)
        with _settings(), backward.in_python(), training_settings(graph):
            compile_fx(graph, inputs, inner_compile=self._lower)
        return self.keys, processor_seconds() - begun - self.seconds

    def _lower(self, graph: fx.GraphModule, inputs: list[Any], **settings: Any) -> Callable:
        begun = processor_seconds()
        if not settings.get('is_backward') and not settings.get('is_inference'):
            metadata = torch._guards.TracingContext.get().fw_metadata
            self.handed_on = handed_on(graph, metadata.num_forward)
        for device in self.targets:
            key = graph_key(graph, device, settings)
            self.keys.append(key)
            if key not in self.known:
                self.known[key] = asdict(self._lower_for(device, key, graph, inputs, settings))
                self.keep(self.known[key])
        self.seconds += processor_seconds() - begun
        return _never_called

    def _lower_for(
        self,
        device: Device,
        key: str,
        graph: fx.GraphModule,
        inputs: list[Any],
        settings: dict[str, Any],
    ) -> Lowered:
        lowered = Lowered(
            key, device.capability, bool(settings.get('is_backward')), len(graph.graph.nodes)
        )
        begun = processor_seconds()
        graph = copy.deepcopy(graph)  # inductor's passes change it, for one device
        with present(device), kernels_written() as sources:
            try:
                _forget_strides()
                code = compile_fx_inner(graph, inputs, **settings).source_code
            except Exception as error:  # the gate reports any error of inductor
                lowered.refused = reason_in_a_line(error)
                return lowered
            finally:
                lowered.seconds = processor_seconds() - begun
        for name, source in sources:
            source = source.replace(name, 'triton_')
            kernel = hashlib.sha256(source.encode()).hexdigest()[:16]
            lowered.kernels[kernel] = name
            self.keep_source(kernel, source)
        lowered.calls = calls_of(code) | self._own_launches(graph, device)
        return lowered

    def _own_launches(self, graph: fx.GraphModule, device: Device) -> dict[str, int]:
        """Count the launches of the project's kernels, which inductor calls as is."""
        numbers = Counter()
        for node in graph.graph.nodes:
            # an operator with side effects is wrapped with a token that keeps their order
            operator, *args = (
                (*node.args[1:],) if node.target is with_effects else (node.target, *node.args)
            )
            if own.is_own(operator):
                values = fx.node.map_arg((tuple(args), node.kwargs), lambda n: n.meta['val'])
                if traced := node.meta.get('eager_input_vals'):
                    # inductor gives an operator that needs exact strides those of its trace
                    values = pytree.tree_map(lambda t, v: v if t is None else t, traced, values)
                numbers[str(operator)] += self.note_own(operator, *values, device)
        return dict(numbers)

    def note_own(
        self, operator: torch._ops.OpOverload, args: tuple, kwargs: dict, device: Device
    ) -> int:
        """Keep the kernel launches of an operator of mtp; return the number of all its launches."""
        launches, number = own.launches_of(operator, args, kwargs, device)
        for launch in launches:
            self.keep_launch(launch)
        return number


def _forget_strides() -> None:
    """Forget the strides of a graph's outputs, which inductor notes anew for each device."""
    context = torch._guards.TracingContext.try_get()
    if context is not None and context.output_strides is not None:
        context.output_strides.clear()


def _never_called(*_: Any) -> None:
    raise AssertionError('a graph that was lowered for a GPU cannot run')


_never_called._boxed_call = True


@contextmanager
def _settings() -> Iterator[None]:
    """Disable caches, which would hide the cost of lowering."""
    with ExitStack() as stack:
        stack.enter_context(inductor.patch(fx_graph_cache=False, compile_threads=1))
        stack.enter_context(
            functorch.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True)
        )
        yield


def on_cuda(graph: fx.GraphModule, inputs: list[Any]) -> tuple[fx.GraphModule, list[Any]]:
    """Move a graph of Dynamo and its inputs to a fake GPU; keep their strides."""
    if any(isinstance(i, Tensor) and i.is_cuda for i in inputs):
        return graph, inputs
    mode = torch._guards.TracingContext.get().fake_mode
    graph = copy.deepcopy(graph)

    def moved(value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == 'cpu':
            return CUDA
        return value

    for node in graph.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, moved)
        node.kwargs = fx.node.map_aggregate(node.kwargs, moved)
    graph.recompile()
    with mode:
        values = [n.meta.get('example_value') for n in graph.graph.nodes if n.op == 'placeholder']
        return graph, [_on_cuda(v) if isinstance(v, Tensor) else i for v, i in zip(values, inputs)]


def _on_cuda(tensor: FakeTensor) -> Tensor:
    if tensor.item_memo is not None:  # a number of the host, which Dynamo passes as a tensor
        return tensor
    return torch.empty_strided(
        tensor.shape,
        tensor.stride(),
        dtype=tensor.dtype,
        device=CUDA,
        requires_grad=tensor.requires_grad,
    )


@contextmanager
def kernels_written() -> Iterator[list[tuple[str, str]]]:
    """Collect names and sources of Triton kernels instead of compiling them."""
    sources: list[tuple[str, str]] = []

    def keep(_, name: str, source: str, device_str: str = 'cuda') -> None:
        sources.append((name, source))

    with patch.object(AsyncCompile, 'triton', keep):
        yield sources


def graph_key(graph: fx.GraphModule, device: Device, settings: dict[str, Any]) -> str:
    """Return a hash of everything that inductor's code depends on."""
    lines = [f'{device} {bool(settings.get("is_backward"))} {settings.get("is_inference")}']
    for node in graph.graph.nodes:
        lines.append(f'{node.format_node()} {_layouts(node.meta.get("val"))}')
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]


def _layouts(value: Any) -> str:
    return str(
        fx.node.map_aggregate(
            value,
            lambda v: f'{v.dtype}{tuple(v.shape)}{v.stride()}' if isinstance(v, Tensor) else str(v),
        )
    )


def calls_of(code: str) -> dict[str, int]:
    """Count the launches in inductor's code of a graph, from its function ``call``."""
    body = code[code.index('def call(') :]
    return dict(
        Counter(
            'triton' if match['kernel'] else match['op'] or match['method']
            for match in CALLS.finditer(body)
        )
    )
