"""What imbalance costs: time under skewed traffic over time under uniform traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import style, units
from harness.report.plots.ends import End, label_ends, room_for

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.report.groups import Group

QUESTION = "What does skewed traffic cost, against uniform routing?"
READING = (
    "Above 1x the skew made a call slower, below faster: few tokens then touch fewer experts' weights. Under each "
    "traffic stands the measured load of its busiest expert over the mean. Bars combine both medians' 95 % intervals, "
    "and are cut at the edge of the panel. The two times come from different bouts, so small differences mean little."
)

UNIFORM = "uniform"


def draw(group: Group) -> Figure | str:
    """Draw a panel for few, for middling and for many tokens on each machine, a line an implementation."""
    rows = relative(group.speeds)
    if rows.empty:
        return f"Time against skew: not drawn, it needs {UNIFORM!r} and another traffic at the same tokens."
    counts = sorted(int(count) for count in rows["tokens"].unique())
    chosen = sorted({counts[0], counts[len(counts) // 2], counts[-1]})
    keys = [(run, count) for run in group.runs for count in chosen if len(set(_of(rows, run, count)["spread"])) > 1]
    height = max(2.8, room_for(len(group.impls)))
    figure, panels = style.panels([f"T = {count}; {run}" for run, count in keys], height=height)
    style.entitle(figure, QUESTION, group.label)
    reaches = {count: _reach(rows[rows["tokens"] == count]) for count in chosen}
    logarithmic = any(high / low > style.DOUBLINGS for low, high in reaches.values())
    for axes, (run, count) in zip(panels, keys, strict=True):
        ends = _panel(axes, group, _of(rows, run, count))
        style.ratio_axis(axes, "time over uniform", *reaches[count], logarithmic=logarithmic)
        label_ends(axes, ends, height - 1.0)
    panels[-1].set_xlabel("traffic, with the busiest expert's load over the mean")
    return figure


def _reach(rows: pd.DataFrame) -> tuple[float, float]:
    """From where to where the ratios at one token count go, on any machine: a wide interval flattens nothing."""
    return float(rows["ratio"].min()), float(rows["ratio"].max())


def relative(speeds: pd.DataFrame) -> pd.DataFrame:
    """Rows with the time over the same implementation's under uniform traffic: ``ratio``, ``low`` and ``high``.

    Uniform traffic itself is what it is held against, so it has no interval.
    """
    keys = ["run", "tokens", "impl"]
    even = speeds[speeds["spread"] == UNIFORM][[*keys, "median_ns", "low_ns", "high_ns"]]
    rows = speeds.merge(even, on=keys, suffixes=("", "_even"))
    rows["ratio"] = rows["median_ns"] / rows["median_ns_even"]
    rows["low"] = rows["low_ns"] / rows["high_ns_even"]
    rows["high"] = rows["high_ns"] / rows["low_ns_even"]
    rows.loc[rows["spread"] == UNIFORM, ["low", "high"]] = 1.0
    skewed = rows.loc[rows["spread"] != UNIFORM, "tokens"].unique()
    return rows[rows["tokens"].isin(skewed)]


def _of(rows: pd.DataFrame, run: str, tokens: int) -> pd.DataFrame:
    return rows[(rows["run"] == run) & (rows["tokens"] == tokens)]


def _panel(axes: Axes, group: Group, rows: pd.DataFrame) -> list[End]:
    skews = rows.groupby("spread")["max_over_mean"].median()
    spreads = [spread for spread in group.spreads if spread in skews.index]
    ends = []
    for name in group.impls:
        line = rows[rows["impl"] == name].set_index("spread")
        at = [n for n, spread in enumerate(spreads) if spread in line.index]
        if len(at) < 2:
            continue
        line = line.loc[[spreads[n] for n in at]]
        look = group.looks[name]
        bars = [(line["ratio"] - line["low"]).clip(lower=0), (line["high"] - line["ratio"]).clip(lower=0)]
        axes.errorbar(
            at,
            line["ratio"],
            yerr=bars,
            fmt=look.dashes,
            color=look.colour,
            marker=look.marker,
            elinewidth=1,
            label=name,
        )
        ends.append(End(line["ratio"].iloc[-1], name, look.colour))
    axes.axhline(1, color=style.FLOOR, linewidth=0.8)
    labels = [
        f"{label}\n{units.ratio(skews[spread])}" for label, spread in zip(style.stacked(spreads), spreads, strict=True)
    ]
    axes.set_xticks(range(len(spreads)), labels, fontsize=8.5)
    axes.set_xlim(-0.3, len(spreads) - 0.7)
    return ends
