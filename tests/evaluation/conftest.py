"""Fixtures of the metrics' tests."""

import logging
from collections.abc import Iterator

import pytest
from mmengine.logging import MMLogger


class Texts(logging.Handler):
    """Texts of what is logged, by level."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int, list[str]] = {logging.INFO: [], logging.WARNING: []}

    def emit(self, record: logging.LogRecord) -> None:
        self.of.setdefault(record.levelno, []).append(record.getMessage())


@pytest.fixture
def logged() -> Iterator[Texts]:
    logger, texts = MMLogger.get_current_instance(), Texts()
    logger.addHandler(texts)
    yield texts
    logger.removeHandler(texts)


@pytest.fixture
def tables(logged: Texts) -> list[str]:
    """Tables that are logged during a test."""
    return logged.of[logging.INFO]


@pytest.fixture
def warnings(logged: Texts) -> list[str]:
    """Warnings that are logged during a test."""
    return logged.of[logging.WARNING]
