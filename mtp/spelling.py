"""What a user may have meant by a word that is unknown."""

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return `` (did you mean <words>?)`` for up to three known words, nothing if none is near.

    Args:
        word: what was written.
        known: words that could have been meant.
        cutoff: least similarity of a near word, 0 to 1.
    """
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    return f' (did you mean {", ".join(near)}?)' if near else ''
