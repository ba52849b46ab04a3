"""User errors, reported in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from mtp.files import UnusableFileError


@contextmanager
def users_errors() -> Iterator[None]:
    """End the program with only the message of a ``FileNotFoundError`` or ``ValueError``."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error


@contextmanager
def file_errors() -> Iterator[None]:
    """End the program with the message alone where a file that a user gave is at fault."""
    try:
        yield
    except UnusableFileError as error:
        raise SystemExit(f'error: {error}') from error
