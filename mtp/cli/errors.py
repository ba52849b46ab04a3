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
    """End the program with only the message of an :class:`~mtp.files.UnusableFileError`.

    The death of a loader's worker is reported in one line too, with the file that it read.
    """
    try:
        yield
    except UnusableFileError as error:
        # torch sends that of a loader's worker as the text of its traceback
        text = str(error).strip()
        message = text.rpartition('FileError: ')[2] if text.startswith('Caught ') else text
        raise SystemExit(f'error: {message}') from error
    # A worker of an evaluation, in which nothing is left out.
    except (RuntimeError, ConnectionError) as error:
        # Imported here: a program that starts has no torch yet.
        from mtp.engine.loader_workers import explain_death

        death = explain_death(error)
        if death is None:
            raise
        raise SystemExit(f'error: {death}') from error
