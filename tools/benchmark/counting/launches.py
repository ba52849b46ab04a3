"""Count the kernels that code launches, and how often it waits for them, on any device.

A CPU counts what a GPU would do, because both dispatch the same operators::

    with LaunchCounter() as counter:
        loss = step()
        loss.backward()
    print(counter.report())
"""

import dis
import os
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that only allocate or look at a tensor's shape.
NO_KERNEL = {
    'aten::empty',
    'aten::empty_like',
    'aten::empty_strided',
    'aten::new_empty',
    'aten::new_empty_strided',
    'aten::_unsafe_view',
    'aten::lift_fresh',
    'aten::resize_',
    'aten::set_',
    'aten::is_same_size',
    'aten::promote_types',
    'aten::record_stream',
}
# The shapes of their results depend on the data, but torch does not tag them so.
ALSO_WAIT = {'torchvision::nms'}
COPIES = {'aten::_to_copy', 'aten::copy_'}
TORCH = os.path.dirname(torch.__file__) + os.sep
HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
CHECKOUT = str(Path(HERE).parents[2]) + os.sep


class LaunchCounter(TorchDispatchMode):
    """Counter of the operators that launch kernels or make the host wait, by place in the code.

    A launch is an operator that is neither a view nor a mere allocation. A ``_foreach`` or fused
    operator counts once, as does one that takes several kernels (``sort``). The inside of a custom
    operator is not counted. The backward pass is.

    The host waits where a value or a shape comes from the device: ``item``, ``nonzero``, indexing
    by a mask, ``unique``, ``repeat_interleave`` without ``output_size``, ``equal``, blocking
    copies between devices. ``constants`` are tensors built from numbers, lists or arrays. On a GPU
    each of them is a copy for which the host waits, unless it stays on the host. On a CPU the two
    cannot be told apart, hence the separate count.

    Attributes:
        launches: ``(operator, place)`` -> number of launches.
        syncs: ``(operator, place)`` -> number of waits of the host.
        constants: place -> number of tensors built from host values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[tuple[str, str]] = Counter()
        self.syncs: Counter[tuple[str, str]] = Counter()
        self.constants: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name
        if name == 'aten::lift_fresh':
            frame = _innermost(sys._getframe(1))
            if not _assigns_number(frame, args[0]):
                self.constants[_place(frame)] += 1
        elif not func.is_view and name not in NO_KERNEL:
            place = _place(_innermost(sys._getframe(1)))
            self.launches[name, place] += 1
            if _waits(func, name, args, kwargs, out):
                self.syncs[name, place] += 1
        return out

    def report(self, top: int = 25) -> str:
        """Return a text with totals, and the operators and places with the largest counts."""
        by_op, by_place = Counter(), Counter()
        for (name, place), number in self.launches.items():
            by_op[name] += number
            by_place[place] += number
        tables = {
            'launches by operator': by_op,
            'launches by place': by_place,
            'waits': Counter({f'{name} at {place}': n for (name, place), n in self.syncs.items()}),
            'constants': self.constants,
        }
        lines = [
            f'{self.launches.total()} launches, {self.syncs.total()} waits of the host, '
            f'{self.constants.total()} tensors from host values'
        ]
        for title, table in tables.items():
            if table:
                lines += ['', title, *(f'{n:8}  {key}' for key, n in table.most_common(top))]
        return '\n'.join(lines)


def _waits(func, name: str, args: tuple, kwargs: dict, out: Any) -> bool:
    if name == 'aten::index':
        return _has_mask(args[1])
    if name in ('aten::index_put', 'aten::index_put_', 'aten::_index_put_impl_'):
        # A single number is filled in through the mask, without a wait.
        return _has_mask(args[1]) and args[2].dim() > 0
    if name == 'aten::repeat_interleave':
        return kwargs.get('output_size') is None
    if name in COPIES:
        source = args[1] if name == 'aten::copy_' else args[0]
        return source.device != out.device and not (
            kwargs.get('non_blocking') or name == 'aten::copy_' and len(args) > 2 and args[2]
        )
    return name in ALSO_WAIT or bool(
        {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
    )


def _has_mask(indices: list[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _assigns_number(frame: FrameType, value: Tensor) -> bool:
    # `x[mask] = 0` builds a tensor too, which stays on the host.
    return value.dim() == 0 and frame.f_code.co_code[frame.f_lasti] == dis.opmap['STORE_SUBSCR']


def _innermost(frame: FrameType) -> FrameType:
    """Return the innermost frame outside torch."""
    while frame.f_back and frame.f_code.co_filename.startswith((TORCH, HERE)):
        frame = frame.f_back
    return frame


def _place(frame: FrameType) -> str:
    """Return ``file:line``, the line of mtp that led there, and in the backward pass the node."""
    place = _line(frame)
    ours = frame
    while ours and not ours.f_code.co_filename.startswith(CHECKOUT + 'mtp' + os.sep):
        ours = ours.f_back
    if ours and ours is not frame:
        place += f' < {_line(ours)}'
    node = torch._C._current_autograd_node()
    return f'{node.name()} < {place}' if node else place


def _line(frame: FrameType) -> str:
    path = frame.f_code.co_filename.removeprefix(CHECKOUT)
    return f'{path.rpartition("site-packages" + os.sep)[2]}:{frame.f_lineno}'
