"""Spellings: suggestions for misspelt words, and those that are one name."""

import difflib
import re
import unicodedata
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return `` (did you mean <words>?)`` for up to three similar words, ``''`` if there are none.

    Args:
        word: unknown word.
        known: all valid words.
        cutoff: minimum similarity of a suggestion, 0 to 1.
    """
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    return f' (did you mean {", ".join(near)}?)' if near else ''


def fold(name: str) -> str:
    """Return what all spellings of a class name have in common."""
    return re.sub(r'[\s_-]+', ' ', compose(name).strip()).casefold()


def compose(name: str) -> str:
    """Return a name with each accented letter as one sign; macOS writes two that look the same."""
    return unicodedata.normalize('NFC', name)
