"""The module in which numbers first stop being finite, looked for in one training step."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class FirstBad:
    """Watches a model's training step, module by module.

    It waits for the device at every module, and keeps what passes between them until
    :meth:`close`.

    Args:
        model: model without a wrapper.

    Attributes:
        batch: index of the batch, within the update, that is being computed; set by the caller.
        forward: first output that is not finite, as ``dict(module=, type=, batch=,
            inputs_are_finite=)``; None if all are finite.
        backward: first gradient that is not finite, as ``dict(modules=, batch=)``: in the backward
            pass of one of these modules, or between them and the loss where they are said to be
            ``before`` it; None if all are finite.
    """

    def __init__(self, model: nn.Module) -> None:
        self.batch = 0
        self.forward: dict[str, Any] | None = None
        self.backward: dict[str, Any] | None = None
        # id of a value -> the value, and the modules that give and take it
        self._passed: dict[int, tuple[Tensor, dict[str, list[str]]]] = {}
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True),
                module.register_forward_hook(partial(self._leave, name), with_kwargs=True),
            ]
        for name, param in model.named_parameters():
            if param.requires_grad:
                of = name.rpartition('.')[0]
                self._handles.append(param.register_hook(partial(self._of_parameter, of)))

    def close(self) -> None:
        """Watch no more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._passed.clear()

    def _enter(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        for value in _floats((args, kwargs)):
            self._watch(value, 'taken by', name)

    def _leave(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        for value in _floats(output):
            self._watch(value, 'given by', name)
        if self.forward is None and not _finite(output):
            self.forward = dict(
                module=name,
                type=type(module).__name__,
                batch=self.batch,
                inputs_are_finite=_finite((args, kwargs)),
            )

    def _watch(self, value: Tensor, how: str, name: str) -> None:
        """Look at the gradient of a value that is taken or given by a module."""
        if not value.requires_grad:
            return
        if id(value) not in self._passed:
            self._passed[id(value)] = value, {'given by': [], 'taken by': []}
            self._handles.append(value.register_hook(partial(self._of_value, id(value))))
        self._passed[id(value)][1][how].append(name)

    def _of_value(self, key: int, grad: Tensor) -> None:
        if self.backward is None and not _finite(grad):
            takers, givers = (self._passed[key][1][how] for how in ('taken by', 'given by'))
            self._found(_innermost(takers or givers), bool(takers))

    def _of_parameter(self, name: str, grad: Tensor) -> None:
        if self.backward is None and not _finite(grad):
            self._found([name], True)

    def _found(self, modules: list[str], within: bool) -> None:
        self.backward = dict(modules=modules, before=not within, batch=self.batch)


def describe(found: FirstBad, losses: list[str]) -> str:
    """Return a line about what was found.

    Args:
        found: after the step.
        losses: names of the logged losses that are not finite.
    """
    if found.forward is not None:
        place = found.forward
        inputs = 'finite' if place['inputs_are_finite'] else 'not finite either'
        return (
            f'the first module whose output is not finite is {_called(place["module"])} '
            f'({place["type"]}), in batch {place["batch"]}; its inputs are {inputs}'
        )
    if losses:
        return f'the output of every module is finite, but not the losses {", ".join(losses)}'
    if found.backward is not None:
        place = found.backward
        where = 'between the loss and the output of' if place['before'] else 'in the backward of'
        modules = ' or '.join(map(_called, place['modules']))
        return (
            'all outputs are finite; the first gradient that is not appears '
            f'{where} {modules}, in batch {place["batch"]}'
        )
    return 'all outputs and gradients are finite this time, uncompiled and without fall-backs'


def _called(name: str) -> str:
    return name or 'the model itself'


def _innermost(names: list[str]) -> list[str]:
    """Return the names without those of modules that hold another of them."""
    return [
        name
        for name in dict.fromkeys(names)
        if not any(
            other != name and other.startswith(f'{name}.' if name else '') for other in names
        )
    ]


def _floats(values: Any) -> Iterator[Tensor]:
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value


def _finite(values: Any) -> bool:
    return all(bool(value.detach().isfinite().all()) for value in _floats(values))
