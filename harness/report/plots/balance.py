"""How the tokens spread over the experts, and how uneven that is beyond chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.report import style, units
from harness.report.frame import rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from harness.report.frame import Row
    from harness.report.groups import Group

QUESTION = "How unevenly are the experts loaded?"
READING = (
    "Experts sorted by load; 1x is an even share. The legend gives the busiest expert's load over the mean, and in "
    "brackets what perfectly uniform routing of so few tokens would show by chance. Experts without tokens are not on "
    "the line, nor is anything below 1/64 of an even share."
)

LOWEST = 1 / 64
"""Lowest share shown, in even shares."""


def draw(group: Group) -> Figure | str:
    """Draw a step line a traffic, at the highest token count. Machines share seeds, and so the lines."""
    counted = [row for row in rows_of(group.drawn) if sum(row.histogram) > 0]
    if not counted:
        return "Expert load: not drawn, no record holds a histogram."
    tokens = max(row.tokens for row in counted)
    loads = {row.spread: row for row in counted if row.tokens == tokens}
    spreads = [spread for spread in group.spreads if spread in loads]
    figure, (axes,) = style.panels([f"T = {tokens}"], height=4.0 + 0.1 * len(spreads))
    style.entitle(figure, QUESTION, group.label)
    looks = style.traffic_looks(spreads)
    shown = [_line(axes, loads[spread], *looks[spread]) for spread in spreads]
    axes.axhline(1, color=style.FLOOR, linewidth=0.8)
    axes.set_xlim(0.5, group.case.shape.experts + 0.5)
    low = max(LOWEST, min(float(line.min()) for line in shown))
    high = max(float(line.max()) for line in shown)
    style.ratio_axis(axes, "tokens over an even share", low, high, logarithmic=high / low > style.DOUBLINGS)
    axes.set_xlabel("experts, busiest first")
    figure.legend(
        title="traffic: max/mean (by chance)", loc="outside lower left", ncols=2, frameon=False, fontsize=8.5,
        alignment="left",
    )  # fmt: skip
    return figure


def _line(axes: Axes, row: Row, colour: str, dashes: str) -> NDArray[np.float64]:
    """Draw and return the sorted loads of one traffic over their mean, as far as there are any."""
    counts = np.sort(np.asarray(row.histogram, dtype=np.float64))[::-1]
    loads: NDArray[np.float64] = counts[counts > 0] / counts.mean()
    label = f"{row.spread}: {units.ratio(row.max_over_mean)} ({units.ratio(row.max_over_mean_floor)})"
    marker = "." if len(loads) < 40 else ""
    at = np.arange(1, len(loads) + 1)
    axes.step(at, loads, dashes, where="mid", color=colour, marker=marker, label=label)
    return loads
