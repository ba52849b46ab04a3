"""Fall-backs for parts that only make a run faster, and the warnings that report them.

A part is compiled code or a kernel. ``MTP_STRICT=1`` turns every fall-back into an error, for tests
and for users who prefer an error to a slower run; it is the only strict switch.
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
    """Failure of a part that would have fallen back without ``MTP_STRICT=1``."""


def is_strict() -> bool:
    """Return whether ``MTP_STRICT=1`` is set."""
    return os.environ.get('MTP_STRICT') == '1'


def fall_back(part: str, to: str, reason: BaseException | str) -> None:
    """Record that a slower implementation takes over; warn once for each part.

    Args:
        part: name of the part that failed, e.g. ``'SemanticTask.terms'``.
        to: clause that completes "from now on ...", e.g. ``'it runs uncompiled'``.
        reason: exception that the part raised, or the reason in words.

    Raises:
        FallbackError: ``MTP_STRICT=1`` is set; its cause is ``reason`` if that is an exception.
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
    """Return the parts that have fallen back in this process -> the reason, one line each."""
    return dict(_fallen)


def reason_in_a_line(error: BaseException, length: int = 300) -> str:
    """Return the type and first non-empty line of an exception, at most ``length`` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
    return text if len(text) <= length else text[: length - 3] + '...'
