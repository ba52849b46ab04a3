"""The keys that a dict of a config may have, known from what it builds."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model.weight_init import BaseInit
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.utils import get_object_from_string
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

# What the libraries take out of a dict before they build the class: base class -> keys.
TAKEN_OUT: dict[type, tuple[str, ...]] = {
    Hook: ('priority',),
    _ParamScheduler: ('convert_to_iter_based',),
    OptimWrapper: ('constructor', 'paramwise_cfg'),
    BaseInit: ('override', 'name'),
    _NormBase: ('requires_grad',),
    nn.LayerNorm: ('requires_grad',),
    nn.GroupNorm: ('requires_grad',),
}
REGISTRIES = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]


def keys_of(node: Any, type_: Any = None) -> tuple[list[str], bool]:
    """Return valid next parts of a dotted key, and whether others are accepted (``**kwargs``).

    Args:
        node: value in a config.
        type_: what it is the arguments of, as of :func:`find_type`; None for the ``type`` in it.
    """
    if isinstance(node, list):
        return [str(index) for index in range(len(node))], False
    if not isinstance(node, Mapping | Config):
        return [], False
    type_ = type_ or node.get('type')
    built_by = find_type(type_)
    # a name that is unknown here may be known where it is built
    names, passes_on = arguments(built_by) if built_by else ([], type_ is not None)
    imported = getattr(node, '_imported_names', ())
    return list(dict.fromkeys([*(key for key in node if key not in imported), *names])), passes_on


def find_type(type_: Any) -> Callable | None:
    """Return what a ``type`` stands for: itself, or what its name gives in the current scope.

    None for a name that is unknown, or that registries give different classes for.
    """
    if not isinstance(type_, str):
        return type_ if callable(type_) else None
    if '.' in type_ and (found := get_object_from_string(type_)) is not None:
        return found
    found = _registered(type_)
    return found[0] if len(found) == 1 else None


def is_known(name: str) -> bool:
    """Return whether a registry, or a module, has a name."""
    return bool(_registered(name)) or get_object_from_string(name) is not None


def _registered(name: str) -> list[Callable]:
    found = (in_.get(name) for in_ in REGISTRIES)
    return list(dict.fromkeys(of for of in found if of is not None))


@cache
def arguments(built_by: Callable) -> tuple[list[str], bool]:
    """Return the names of the arguments, and whether others are accepted too.

    ``**kwargs`` that a class only hands to the next ``__init__`` stand for the arguments of that
    one.
    """
    if not inspect.isclass(built_by):
        names, keywords = _parameters(built_by)
        return names, bool(keywords)
    names = [key for base, keys in TAKEN_OUT.items() if issubclass(built_by, base) for key in keys]
    passes_on = False
    for cls in built_by.__mro__:
        if cls in (nn.Module, object):
            return names, False
        if '__init__' in vars(cls):
            own, keywords = _parameters(vars(cls)['__init__'])
            names += own[1:]  # without self
            passes_on = keywords is not None and not _only_for_next_init(cls, keywords)
            if keywords is None or passes_on:
                break
    return names, passes_on


def _parameters(function: Callable) -> tuple[list[str], str | None]:
    """Return the names of the parameters, and that of ``**kwargs``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # one in C, which does not tell
        return [], 'kwargs'
    names = [
        argument.name
        for argument in parameters
        if argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
    ]
    return names, next((x.name for x in parameters if x.kind is x.VAR_KEYWORD), None)


def _only_for_next_init(cls: type, keywords: str) -> bool:
    """Return whether ``**kwargs`` of a class's ``__init__`` go to the next one and nowhere else."""
    try:
        source = inspect.getsource(inspect.unwrap(vars(cls)['__init__']))
        tree = ast.parse(textwrap.dedent(source))
    except (OSError, TypeError, SyntaxError):
        return False
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == keywords]
    handed_on = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == '__init__'
        for keyword in node.keywords
        if keyword.arg is None
    ]
    return set(map(id, uses)) <= set(map(id, handed_on))
