"""What takes over when a part that only makes a run faster fails, and how the run says so.

A part is compiled code or a kernel. ``MTP_STRICT=1`` turns every fall-back into an error, for tests
and for those who would rather mend it than wait; it is the only strict switch.
"""

import logging
import os

logger = logging.getLogger('mtp')

REPORT = (
    'please report it with the output of "python -m mtp.info" at the issue tracker of mtp; '
    'MTP_STRICT=1 ends the run here with the whole traceback'
)

_fallen: dict[str, str] = {}


class FallbackError(RuntimeError):
    """A part failed that would have fallen back, under ``MTP_STRICT=1``."""


def is_strict() -> bool:
    """Return whether ``MTP_STRICT=1`` is set."""
    return os.environ.get('MTP_STRICT') == '1'


def fall_back(part: str, to: str, reason: BaseException | str) -> None:
    """Note that a slower form takes over, with one warning for each part.

    Args:
        part: name of what failed, e.g. ``'SemanticTask.terms'``.
        to: what takes over, completing "from now on ...", e.g. ``'it runs uncompiled'``.
        reason: the exception that ended the part, or the reason in words.

    Raises:
        FallbackError: under ``MTP_STRICT=1``, from ``reason`` where that is an exception.
    """
    line = reason_in_a_line(reason) if isinstance(reason, BaseException) else reason
    if is_strict():
        cause = reason if isinstance(reason, BaseException) else None
        raise FallbackError(f'{part}: {line} (MTP_STRICT=1 allows no fall-back)') from cause
    if part not in _fallen:
        _fallen[part] = line
        logger.warning(
            '%s failed, from now on %s, more slowly: %s. If you can, %s', part, to, line, REPORT
        )


def fallen() -> dict[str, str]:
    """Return the parts that have fallen back in this process, each with its reason in a line."""
    return dict(_fallen)


def reason_in_a_line(error: BaseException, length: int = 300) -> str:
    """Return the type and the first telling line of an exception, at most ``length`` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
    return text if len(text) <= length else text[: length - 3] + '...'
