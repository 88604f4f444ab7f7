"""Notes on many records in few words: equal ones are counted, and numbers that differ become a range."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from harness.report import units

if TYPE_CHECKING:
    from collections.abc import Iterable

_NUMBER = re.compile(r"\d+")


def counted(reasons: Iterable[str]) -> list[tuple[str, int]]:
    """Every reason with how often it was given, commonest first."""
    return Counter(reason for reason in reasons if reason).most_common()


def ranges(notes: Iterable[str]) -> list[tuple[str, int]]:
    """Count notes that differ in their first number only as one, which tells the lowest and the highest."""
    numbers: dict[str, list[int]] = {}
    for note in notes:
        found = _NUMBER.search(note)
        numbers.setdefault(_NUMBER.sub("{}", note, count=1), []).append(int(found[0]) if found else 0)
    ordered = sorted(numbers.items(), key=lambda item: -len(item[1]))
    return [(text.replace("{}", units.span(str(min(seen)), str(max(seen)))), len(seen)) for text, seen in ordered]
