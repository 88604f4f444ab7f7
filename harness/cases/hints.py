"""What a person who mistyped a word probably meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Name the known words close to ``word``, as an end of a sentence; all of them when none is close."""
    words = list(known)
    close = difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.6)
    if not close:
        return "one of " + ", ".join(words)
    return "did you mean " + " or ".join(repr(match) for match in close) + "?"
