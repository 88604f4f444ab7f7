"""Names at the ends of lines, pushed apart so that none covers another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


FONT_SIZE = 9.0
STEP_INCHES = FONT_SIZE * 1.25 / 72


class End(NamedTuple):
    """The last point of a line in data coordinates, its name and its colour."""

    y: float
    name: str
    colour: str


def label_ends(axes: Axes, ends: Sequence[End], height_inches: float) -> None:
    """Write the names to the right of the axes, at the height of their lines as far as there is room.

    Call it last, when the limits of the y axis are final. ``height_inches`` is about the height of the axes; a thin
    leader joins a name to the end of its line when it had to move.
    """
    step = STEP_INCHES / height_inches
    ends = sorted(ends, key=lambda end: end.y)
    wanted = [_fraction(axes, end.y) for end in ends]
    for end, at, place in zip(ends, wanted, apart(wanted, step), strict=True):
        # patchA None: the leader starts at the edge of the text as it is, and nothing clips it.
        leader = {"arrowstyle": "-", "color": end.colour, "linewidth": 0.7, "shrinkA": 3, "shrinkB": 0, "patchA": None}
        axes.annotate(
            end.name,
            xy=(1.0, at),
            xytext=(1.04, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=FONT_SIZE,
            color=end.colour,
            arrowprops=leader | {"relpos": (0, 0.5)},
        )


def room_for(names: int) -> float:
    """Height in inches of a panel beside which so many names fit."""
    return 1.1 + names * STEP_INCHES


def apart(wanted: Sequence[float], step: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Move ascending places as little as needed until neighbours are ``step`` apart, between ``low`` and ``high``.

    Neighbours that are too near form a block around the mean of what its members wanted; blocks that then meet merge.
    Where there is not room for all, the lowest place stays within and the highest leaves.
    """
    blocks: list[tuple[float, int]] = []
    last = len(wanted) - 1
    for n, place in enumerate(wanted):
        blocks.append((max(min(place, high - (last - n) * step), low + n * step), 1))
        while len(blocks) > 1:
            (upper, above), (lower, below) = blocks[-1], blocks[-2]
            if upper - lower >= step * (above + below) / 2:
                break
            blocks[-2:] = [((upper * above + lower * below) / (above + below), above + below)]
    return [middle + step * (n - (count - 1) / 2) for middle, count in blocks for n in range(count)]


def _fraction(axes: Axes, y: float) -> float:
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        low, high, y = math.log(low), math.log(high), math.log(y)
    return (y - low) / (high - low)
