"""Who wins where: a map of tokens and traffic, coloured by the winner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import style
from harness.report.plots.cells import Cell, cell_of, draw_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.report.groups import Group

QUESTION = "Which implementation is fastest where, and by how much?"
READING = (
    "Each cell is one case, coloured by the family of the fastest implementation and holding its name, and how many "
    "times as long the next one took. Grey cells are shared wins, with the fastest of them named first; empty "
    "ones were not measured."
)


def draw(group: Group) -> Figure | str:
    """Draw a panel a machine, a row a token count, a column a traffic."""
    cells: dict[str, dict[tuple[str, str], Cell]] = {run: {} for run in group.runs}
    for outcome in group.drawn_outcomes:
        cells[outcome.run][outcome.spread, str(outcome.tokens)] = cell_of(outcome, group.looks)
    if sum(len(found) for found in cells.values()) < 2:
        return "Winners by tokens and traffic: not drawn, there is only one case."
    ticks = [str(count) for count in group.tokens]
    figure, panels = style.panels(group.runs, height=0.9 + 0.46 * len(ticks))
    style.entitle(figure, QUESTION, group.label)
    for axes, run in zip(panels, group.runs, strict=True):
        draw_map(axes, cells[run], group.spreads, ticks)
        axes.set_xlabel("traffic, from balanced to skewed")
        axes.set_ylabel("tokens in one call")
    return figure
