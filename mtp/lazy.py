"""Packages that import the module of a public name when the name is first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attribute_getter(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that imports none of its modules by itself.

    Args:
        package: full name of the package.
        names: full name of a module -> the public names that the package exports from it.
    """
    modules = {name: module for module, of_module in names.items() for name in of_module}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(importlib.import_module(modules[name]), name)

    return get
