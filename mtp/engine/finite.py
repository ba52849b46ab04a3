"""Numbers that are not finite: found in checkpoints, and kept out of a model's buffers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class SavedBuffers:
    """Persistent buffers of a model as they are now, to go back to without a wait for the device.

    Every persistent buffer is saved, since torch has no reliable sign of the ones that a step
    changes: batch norm's kernels do not raise the version of a tensor. Other buffers are caches,
    which a resumed run does not have either.

    Args:
        model: model, wrapped or not.
        began: buffers that were not finite when training began, as
            :func:`not_finite_buffers` returns them.
    """

    def __init__(self, model: nn.Module, began: Mapping[str, bool]) -> None:
        groups: dict[tuple, list[tuple[dict, str]]] = {}
        for place, module in model.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set:
                    held_nan = began.get(f'{place}.{name}' if place else name) if began else None
                    key = buffer.device, buffer.dtype, held_nan
                    groups.setdefault(key, []).append((module._buffers, name))
        self._held_nan = [held_nan for *_, held_nan in groups]
        self._owners = list(groups.values())
        self._saved = self._read()
        self._now = self._saved

    @torch.no_grad()
    def save(self) -> bool:
        """Save the values as they are now, in place; return False if a buffer has another size.

        A captured step reads and writes the same memory again and again.
        """
        parts = [_flat(owners) for owners in self._owners]
        if any(sum(map(len, of_kind)) != len(saved) for of_kind, saved in zip(parts, self._saved)):
            return False
        for of_kind, saved in zip(parts, self._saved):
            torch.cat(of_kind, out=saved)
        return True

    def become_not_finite(self) -> list[Tensor]:
        """Return, as a boolean of the device by kind of buffer, whether finite ones no longer are.

        A huge activation makes a running variance infinite, and leaves the loss as it should be.
        A buffer that held infinity when training began may hold it anywhere, since a mask may be
        made again for another size; one that held NaN may hold anything.
        """
        self._now = self._read()
        return [
            (is_not_finite(now) > is_not_finite(saved) if held_nan is None else now.isnan()).any()
            for held_nan, saved, now in zip(self._held_nan, self._saved, self._now)
            if not held_nan and saved.is_floating_point() and saved.shape == now.shape
        ]

    @torch.no_grad()
    def restore(self, wanted: Tensor) -> None:
        """Go back to the saved values where ``wanted``, a boolean of the device, is true.

        The values of now are those that :meth:`become_not_finite` has read.
        """
        for owners, saved, now in zip(self._owners, self._saved, self._now):
            if now.shape != saved.shape:  # a buffer has another size since: nothing to go back to
                continue
            live = _named(owners)
            values = torch.where(wanted, saved, now).split([buffer.numel() for buffer in live])
            torch._foreach_copy_(
                live, [value.view_as(buffer) for value, buffer in zip(values, live)]
            )

    def _read(self) -> list[Tensor]:
        """Return the values of all buffers of a kind one after the other, by kind."""
        return [torch.cat(_flat(owners)) for owners in self._owners]


def _flat(owners: Sequence[tuple[dict, str]]) -> list[Tensor]:
    return [buffer.detach().reshape(-1) for buffer in _named(owners)]


def _named(owners: Sequence[tuple[dict, str]]) -> list[Tensor]:
    return [buffers[name] for buffers, name in owners]


def is_not_finite(values: Tensor) -> Tensor:
    """Return which floating-point values are NaN or infinite; ``isfinite`` takes four launches."""
    return values * 0 != 0


def not_finite_buffers(model: nn.Module) -> dict[str, bool]:
    """Return the persistent buffers of a model that are not finite, e.g. masks filled with -inf.

    Where training begins with them, they are no fault.

    Returns:
        dict: name in the model's state dict -> whether the buffer holds NaN.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {
        name: value
        for name, value in model.state_dict().items()
        if name not in parameters and isinstance(value, Tensor)
    }
    names = [name.removeprefix('buffers.') for name in not_finite({'buffers': buffers})]
    return {name: holds_nan(buffers[name]) for name in names}


def holds_nan(value: Tensor) -> bool:
    """Return whether a tensor, of a ``DTensor`` this process's shard, holds NaN."""
    value = value.to_local() if isinstance(value, DTensor) else value
    return bool(value.isnan().any())


def not_finite(state: Any) -> list[str]:
    """Return the names of the tensors and numbers in a checkpoint that are NaN or infinite.

    Logged values (``message_hub``) and what describes a run (``meta``) may be.

    Args:
        state: checkpoint, or a part of one: nested mappings and sequences; of a ``DTensor`` this
            process's shard is looked at.

    Returns:
        list[str]: names as ``'state_dict.head.weight'``.
    """
    bad: list[str] = []
    on_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, flag in _not_finite(state, ''):
        if isinstance(flag, Tensor):
            on_device.setdefault(flag.device, {})[name] = flag
        elif flag:
            bad.append(name)
    for flags in on_device.values():  # one transfer for each device
        numbers = torch.stack(list(flags.values())).tolist()
        bad += [name for name, flag in zip(flags, numbers) if flag]
    return bad


def _not_finite(state: Any, name: str) -> Iterator[tuple[str, Tensor | bool]]:
    """Yield each name, and whether it has values that are not finite: of a tensor as a tensor."""
    if isinstance(state, DTensor):
        state = state.to_local()
    if isinstance(state, Tensor):
        if state.is_floating_point() or state.is_complex():
            yield name, ~state.detach().isfinite().all()
    elif isinstance(state, float):
        yield name, not math.isfinite(state)
    elif isinstance(state, Mapping):
        for key, value in state.items():
            if name or key not in ('message_hub', 'meta'):
                yield from _not_finite(value, f'{name}.{key}' if name else str(key))
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from _not_finite(value, f'{name}.{index}' if name else str(index))
