"""How executions change the ranking: a line an implementation, which crosses another's where they change places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from harness.report import style, units
from harness.report.plots.ends import End, label_ends, room_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.report.executions import Contrast

QUESTION = "Does the ranking change between executions?"
READING = (
    "Lower is faster. A line joins one implementation's times under each execution; where two lines cross, they change "
    "places. Bars are 95 % intervals of the median. Executions were measured one after the other. A line that is "
    "missing somewhere has no time there; the table says why."
)


def draw(contrast: Contrast) -> Figure | str:
    """Draw a panel for few, for middling and for many tokens on each machine, at the groups' main traffic."""
    spread = contrast.any_group.main_spread
    parts = [group.speeds.assign(execution=name) for name, group in contrast.groups.items()]
    rows = pd.concat([part[part["spread"] == spread] for part in parts])
    several = rows.groupby(["run", "tokens"])["execution"].nunique()
    keys = [(str(run), int(tokens)) for run, tokens in several[several > 1].index]
    if not keys:
        return "The ranking by execution: not drawn, no case has a time under two of them."
    counts = sorted({tokens for _, tokens in keys})
    chosen = {counts[0], counts[len(counts) // 2], counts[-1]}
    shown = [(run, tokens) for run, tokens in keys if tokens in chosen]
    height = max(3.0, room_for(rows["impl"].nunique()))
    figure, panels = style.panels([f"T = {tokens}; {run}" for run, tokens in shown], height=height)
    style.entitle(figure, QUESTION, f"{contrast.label}; traffic {spread}")
    for axes, (run, tokens) in zip(panels, shown, strict=True):
        _panel(axes, contrast, rows[(rows["run"] == run) & (rows["tokens"] == tokens)], height)
    return figure


def _panel(axes: Axes, contrast: Contrast, rows: pd.DataFrame, height: float) -> None:
    names = [name for name in contrast.executions if (rows["execution"] == name).any()]
    looks, ends = contrast.any_group.looks, []
    for impl in sorted(rows["impl"].unique(), key=lambda impl: looks[impl].order):
        line = rows[rows["impl"] == impl].drop_duplicates("execution").set_index("execution")
        at = [place for place, name in enumerate(names) if name in line.index]
        line, look = line.loc[[names[place] for place in at]], looks[impl]
        times = line["median_ns"]
        bars = [(times - line["low_ns"]).clip(lower=0), (line["high_ns"] - times).clip(lower=0)]
        axes.errorbar(
            at, times, yerr=bars, fmt=look.dashes, color=look.colour, marker=look.marker, elinewidth=1, label=impl
        )
        ends.append(End(times.iloc[-1], impl if at[-1] == len(names) - 1 else f"{impl} ({names[at[-1]]})", look.colour))
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.2, len(names) - 0.8)
    style.rate_axis(axes, "median time of a call", units.time)
    label_ends(axes, ends, height - 0.9)
