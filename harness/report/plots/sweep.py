"""Who wins where over numbers of experts and top-k."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import style
from harness.report.plots.cells import Cell, cell_of, draw_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.report.sweeps import Sweep

QUESTION = "Which implementation is fastest for how many experts?"
READING = (
    "Each cell is one shape, coloured by the family of the fastest implementation and holding its name, and how many "
    "times as long the next one took. Grey cells are shared wins; empty ones were not measured."
)


def draw(sweep: Sweep, run: str) -> Figure:
    """Draw a panel a token count with experts across and k up; where either does not vary, tokens up."""
    found = _cells(sweep, run)
    tokens = sorted({count for _, _, count in found})
    across, label = (sweep.experts, "experts") if len(sweep.experts) > 1 else (sweep.top_ks, "top-k")
    both = len(sweep.experts) > 1 and len(sweep.top_ks) > 1
    upward = sweep.top_ks if both else tokens
    titles = [f"T = {count}; {run}" for count in tokens] if both else [run]
    figure, panels = style.panels(titles, height=0.9 + 0.46 * len(upward))
    style.entitle(figure, QUESTION, f"{sweep.label}; traffic {sweep.main_spread}{_fixed(sweep)}")
    for place, axes in enumerate(panels):
        cells: dict[tuple[str, str], Cell] = {}
        for (experts, top_k, count), cell in found.items():
            column = experts if label == "experts" else top_k
            if not both or count == tokens[place]:
                cells[str(column), str(top_k if both else count)] = cell
        draw_map(axes, cells, [str(n) for n in across], [str(n) for n in upward])
        axes.set_xlabel(label)
        axes.set_ylabel("top-k" if both else "tokens in one call")
    return figure


def _cells(sweep: Sweep, run: str) -> dict[tuple[int, int, int], Cell]:
    """Outcomes of one run by (experts, top-k, tokens)."""
    cells = {}
    for group in sweep.groups:
        shape = group.case.shape
        for outcome in group.drawn_outcomes:
            if (outcome.run, outcome.spread) == (run, sweep.main_spread):
                cells[shape.experts, shape.top_k, outcome.tokens] = cell_of(outcome, group.looks)
    return cells


def _fixed(sweep: Sweep) -> str:
    """Name what does not vary."""
    experts = f"; E = {sweep.experts[0]}" if len(sweep.experts) == 1 else ""
    return experts + (f"; k = {sweep.top_ks[0]}" if len(sweep.top_ks) == 1 else "")
