"""Throughput against tokens, with the speed that the hardware allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import style
from harness.report.plots.ends import End, label_ends, room_for
from harness.report.ranking import BASELINE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.report.groups import Group

QUESTION = "How many tokens a second, and how far from what the hardware allows?"
READING = (
    "Up is faster; both axes are logarithmic. The black line is the floor turned into a speed: by the ceilings "
    "measured on that machine, no MoE layer of this shape can work above it. Bands are 95 % intervals of the median. "
    "The dashed grey baseline is a dense layer with the same active FLOPs; it has fewer weights to read and may cross "
    "the line."
)


def draw(group: Group) -> Figure | str:
    """Draw a panel a machine, a line an implementation, at the group's main traffic."""
    speeds = group.speeds
    rows = speeds[(speeds["spread"] == group.main_spread) & (speeds["tokens_per_second"] > 0)]
    counts = sorted(rows["tokens"].unique())
    if len(counts) < 2:
        measured = f"only T = {counts[0]}" if counts else "no token count"
        return f"Throughput against tokens: not drawn, {measured} has a time."
    runs = [run for run in group.runs if (rows["run"] == run).any()]
    height = max(4.4, room_for(len(group.impls) + 1))
    figure, panels = style.panels(runs, height=height)
    style.entitle(figure, QUESTION, f"{group.label}; traffic {group.main_spread}")
    for axes, run in zip(panels, runs, strict=True):
        style.token_axis(axes, counts)
        ends = _lines(axes, group, rows[rows["run"] == run]) + _floor(axes, rows[rows["run"] == run])
        style.rate_axis(axes, "tokens per second")
        label_ends(axes, ends, height - 0.9)
    return figure


def _lines(axes: Axes, group: Group, rows: pd.DataFrame) -> list[End]:
    """Draw a line with its interval for every implementation."""
    ends = []
    for name in group.impls:
        line = rows[rows["impl"] == name].sort_values("tokens")
        if line.empty:
            continue
        look = group.looks[name]
        tokens, speeds = line["tokens"], line["tokens_per_second"]
        axes.plot(tokens, speeds, look.dashes, color=look.colour, marker=look.marker, label=name)
        slow, fast = tokens / line["high_ns"] * 1e9, tokens / line["low_ns"] * 1e9
        axes.fill_between(tokens, slow, fast, color=look.colour, alpha=0.18, linewidth=0)
        note = " (baseline)" if name in group.baselines else _end_of(group, name, line)
        ends.append(End(speeds.iloc[-1], name + note, look.colour))
    return ends


def _end_of(group: Group, name: str, line: pd.DataFrame) -> str:
    """Say with which status a line stops short of the highest token count, if it does."""
    last = line.iloc[-1]
    rows = group.drawn
    beyond = rows[(rows["impl"] == name) & (rows["spread"] == group.main_spread) & (rows["run"] == last["run"])]
    failed = beyond[(beyond["tokens"] > last["tokens"]) & (beyond["status"] != "ok")].sort_values("tokens")
    return "" if failed.empty else f", then {failed['status'].iloc[0]}"


def _floor(axes: Axes, rows: pd.DataFrame) -> list[End]:
    """Draw the floor of the ranked implementations as a speed, and shade what lies above it."""
    moe = rows[(rows["family"] != BASELINE) & (rows["floor_ns"] > 0)]
    if moe.empty:
        axes.set_title(f"{axes.get_title(loc='left')}; no ceilings were measured, so no floor", loc="left")
        return []
    floor = moe.groupby("tokens")["floor_ns"].min()
    speeds = floor.index / floor * 1e9
    slowest = rows["high_ns"].fillna(rows["median_ns"])
    bottom = (rows["tokens"] / slowest).min() * 1e9 / 1.5
    top = 2 * max(speeds.max(), rows["tokens_per_second"].max())
    axes.plot(floor.index, speeds, color=style.FLOOR, linewidth=1.4, label="floor")
    axes.fill_between(floor.index, speeds, top, color=style.FLOOR, alpha=0.08, linewidth=0)
    axes.set_ylim(bottom, top)
    axes.annotate(
        "faster than the hardware can do this layer", (0.02, 0.97), xycoords="axes fraction", va="top", style="italic"
    )
    return [End(speeds.iloc[-1], "floor", style.FLOOR)]
