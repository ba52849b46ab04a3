"""What of a run's log is shown on the console; its log file has all of it.

The log file gets the environment, the config, the list of hooks and what became of each weight.
The console gets warnings, the summary of the start (:mod:`mtp.engine.start_summary`), one line per
interval (on a terminal a progress bar instead), and the tables of figures.
"""

import logging
import sys
from typing import Any

from mmengine.logging import MMLogger
from tqdm import tqdm

# Arguments of a record that is shown even before the summary of the start, or never.
SHOWN: dict[str, Any] = dict(extra=dict(on_console=True))
FILE_ONLY: dict[str, Any] = dict(extra=dict(on_console=False))


class ConsoleFilter(logging.Filter):
    """Filter of the records that the console shows.

    Attributes:
        starting: whether the summary of the start is still to come; until then the console shows
            warnings and what is marked as shown.
        bars: whether progress bars take the place of the lines per interval.
    """

    def __init__(self) -> None:
        super().__init__()
        self.starting = True
        self.bars = False
        self._figures_shown = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the console shows a record."""
        marked: bool | None = getattr(record, 'on_console', None)
        # mtp/evaluation/tables.py marks its tables
        self._figures_shown |= hasattr(record, 'figures')
        if record.levelno >= logging.WARNING:
            return True
        if marked is not None:
            return marked
        return not self.starting and not self._is_repeated(record)

    def _is_repeated(self, record: logging.LogRecord) -> bool:
        """Return whether the console tells the same in another form."""
        if record.module == 'checkpoint_hook':  # the folder, which the summary names
            return record.funcName == 'before_train'
        if record.module != 'logger_hook':
            return False
        if record.funcName in ('after_val_epoch', 'after_test_epoch'):
            shown, self._figures_shown = self._figures_shown, False
            return shown
        return self.bars or record.getMessage().startswith('Exp name: ')


class BesideBars:
    """Stream to the standard output that writes above any progress bar."""

    def write(self, text: str) -> None:
        """Write a text."""
        tqdm.write(text, file=sys.stdout, end='')

    def flush(self) -> None:
        """Flush the standard output."""
        sys.stdout.flush()


def tidy_console(logger: MMLogger) -> ConsoleFilter:
    """Give the console's handler of a logger a new filter, and return that."""
    console = ConsoleFilter()
    for handler in _console_handlers(logger):
        handler.filters = [part for part in handler.filters if not isinstance(part, ConsoleFilter)]
        handler.addFilter(console)
    return console


def write_beside_bars(logger: MMLogger) -> None:
    """Keep the lines of a logger from breaking the progress bars of this terminal."""
    for handler in _console_handlers(logger):
        handler.setStream(BesideBars())


def _console_handlers(logger: MMLogger) -> list[logging.StreamHandler]:
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]
