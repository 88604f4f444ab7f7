"""How tokens spread over experts, drawn in characters for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import units

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
MOST_COLUMNS, WIDEST = 64, 6
HEIGHT = 8
MARGIN = 7


def histogram_lines(counts: Sequence[int]) -> list[str]:
    """Draw experts from the busiest to the idlest as columns, in multiples of an even share; a line marks 1x.

    More experts than columns share columns evenly, each as high as the mean of its experts; the last line says so.
    """
    total = sum(counts)
    if not total:
        return ["no tokens"]
    loads = sorted((count * len(counts) / total for count in counts), reverse=True)
    columns = _binned(loads)
    width = min(WIDEST, max(1, MOST_COLUMNS // len(columns)))
    top = max(columns)
    lines = []
    for row in range(HEIGHT, 0, -1):
        low, high = top * (row - 1) / HEIGHT, top * row / HEIGHT
        label = units.ratio(top) if row == HEIGHT else "1x" if low < 1 <= high else ""
        drawn = "".join(_block((load - low) / (high - low)) * width for load in columns)
        lines.append(f"{label:>{MARGIN - 1}} {drawn}".rstrip())
    experts = f"{len(counts)} experts, busiest first"
    each = -(-len(counts) // len(columns))
    shared = f", {each} to a column, as high as their mean" if each > 1 else ""
    return [*lines, " " * MARGIN + experts + shared]


def _binned(loads: Sequence[float]) -> list[float]:
    """As many loads as fit, each the mean of as many neighbours; the last may have fewer."""
    each = -(-len(loads) // MOST_COLUMNS)
    groups = [loads[start : start + each] for start in range(0, len(loads), each)]
    return [sum(group) / len(group) for group in groups]


def _block(share: float) -> str:
    """Return a character filled from below to this share; something above nothing shows."""
    return BLOCKS[max(0, min(8, round(8 * share)))]
