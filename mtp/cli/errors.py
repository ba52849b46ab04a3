"""User errors, reported in one line."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def users_errors() -> Iterator[None]:
    """End the program with only the message of a ``FileNotFoundError`` or ``ValueError``."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error
