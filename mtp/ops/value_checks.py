"""When operators look at the values that they get, besides at their shapes."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_off: ContextVar[bool] = ContextVar('values are not checked', default=False)


def checks_values() -> bool:
    """Return whether an operator is to raise where boxes are NaN or infinite."""
    return not _off.get()


@contextmanager
def values_unchecked() -> Iterator[None]:
    """Let operators take any values: a training step finds bad ones by its loss and gradients."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)
