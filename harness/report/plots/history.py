"""How a figure changed from run to run: a panel a case and machine, a line an implementation, steps as levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.report import style, units
from harness.report.escape import one_line
from harness.report.plots.ends import End, label_ends, room_for
from harness.report.ranking import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.records.history import Point, Series
    from harness.records.metrics import Metric
    from harness.report.panels import Panel

READING = (
    "Runs go from left to right in the order they were taken, each with its commit (+ with local changes) and its day; "
    "the distance between them means nothing. Bars are 95 % intervals within a run. A pale band is a level that asv's "
    "step detection found, with the change from the one before it. A cross at the bottom is a run without a figure, "
    "with the status of its record. A dotted line is where something other than the code changed: what stands left and "
    "right of it is not compared."
)

MOST = 12
"""Panels of one picture, which are those measured last."""
LABELS = 11
"""Runs named below one panel."""
LEAST_SPAN = 1.25
"""The y axis spans at least this ratio, so that noise does not look like news."""
LOGARITHMIC = 5.0
"""From this ratio on the y axis is logarithmic."""
LEVEL_WIDTH, SHADED = 5.5, 0.4
"""Width and opacity of a level's band."""


def draw(panels: Sequence[Panel], metric: Metric, what: str) -> Figure:
    """Draw the panels that are ``chosen``, and say what is left out; ``what`` was asked for."""
    drawn = chosen(panels)
    table = pd.DataFrame([(s.key.impl, s.family) for p in panels for s in p.series], columns=["impl", "family"])
    looks = style.look_up(table)
    height = max(3.1, *(room_for(len({s.key.impl for s in panel.series})) for panel in drawn))
    figure, plots = style.panels([panel.label for panel in drawn], height=height)
    asked = "; ".join(filter(None, (f"Asked for: {one_line(what)}", left_out(panels))))
    style.entitle(figure, f"How did the {metric.title} change from run to run?", asked)
    for axes, panel in zip(plots, drawn, strict=True):
        _panel(axes, panel, metric, looks, height)
    plots[-1].set_xlabel("runs in order: commit (+ with local changes) and day")
    handles = _legend(drawn, metric)
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=8.5)
    return figure


def chosen(panels: Sequence[Panel]) -> Sequence[Panel]:
    """Take the first ``MOST`` panels in which something can have changed: those of several runs, if there are any."""
    return ([panel for panel in panels if len(panel.runs) > 1] or panels)[:MOST]


def left_out(panels: Sequence[Panel]) -> str:
    """Say how many panels the picture holds and which not; empty when it holds all."""
    single = sum(len(panel.runs) == 1 for panel in panels)
    several = len(panels) - single
    if len(chosen(panels)) == len(panels):
        return ""
    words = [f"{single} of a single run" if single and several else "", "those measured longest ago"]
    gone = " and ".join(filter(None, words if (several or single) > MOST else words[:1]))
    return f"{len(chosen(panels))} of {len(panels)} panels, without {gone}"


def _panel(axes: Axes, panel: Panel, metric: Metric, looks: dict[str, style.Look], height: float) -> None:
    places = {point.run: n for n, point in enumerate(panel.runs)}
    smallest = min(p.value for s in panel.series for p in s.measured if p.value is not None)
    size, unit = units.fitting(smallest, units.SCALES[metric.unit])
    for series in panel.series:
        _line(axes, series, places, size, looks[series.key.impl])
    axes.set_xlim(-0.6, len(places) - 0.4)
    _value_axis(axes, panel, size, f"{_title(panel, metric)}, {unit}")
    for series in panel.series:
        _levels(axes, series, places, size, looks[series.key.impl])
    _gaps(axes, panel, places, looks)
    _breaks(axes, panel, places)
    _run_axis(axes, panel)
    newest = {series.key.impl: series for series in panel.series}
    ends = [
        End((series.measured[-1].value or 0.0) / size, _end(series), looks[name].colour)
        for name, series in newest.items()
    ]
    label_ends(axes, ends, height - 1.0)


def _title(panel: Panel, metric: Metric) -> str:
    """Name what is drawn, and the yardstick where there is only one."""
    yardsticks = {series.key.yardstick.rpartition(" version ")[0] for series in panel.series}
    return metric.title if yardsticks == {""} or len(yardsticks) > 1 else f"time over {one_line(*yardsticks)}'s"


def _line(axes: Axes, series: Series, places: dict[str, int], size: float, look: style.Look) -> None:
    """Draw the points with their intervals; the line is broken where a record has no value."""
    points = series.points
    at = [places[point.run] for point in points]
    values = [math.nan if point.value is None else point.value / size for point in points]
    reach = [
        (point.value - point.low, point.high - point.value)
        if point.value is not None and point.low is not None and point.high is not None
        else (0.0, 0.0)
        for point in points
    ]
    bars = [[max(0.0, side) / size for side in sides] for sides in zip(*reach, strict=True)]
    axes.errorbar(
        at, values, yerr=bars, fmt=look.dashes, color=look.colour, marker=look.marker, linewidth=1.2, elinewidth=1.2,
        capsize=2.5, label=series.key.impl,
    )  # fmt: skip


def _levels(axes: Axes, series: Series, places: dict[str, int], size: float, look: style.Look) -> None:
    """Draw the levels of a series that has steps, each step with its size."""
    found = series.steps
    if not found.steps:
        return
    for level in found.levels:
        ends = (places[series.points[level.first].run] - 0.3, places[series.points[level.last].run] + 0.3)
        heights = (level.value / size, level.value / size)
        axes.plot(ends, heights, color=look.colour, linewidth=LEVEL_WIDTH, alpha=SHADED, solid_capstyle="butt")
    for step in found.steps:
        up, at = step.change > 0, series.points[step.at]
        size_of_it = f"{step.change:+.1%}".replace("%", " %") + (" ?" if step.newest_only else "")
        late = places[at.run] > 0.7 * len(places)  # its words would leave the panel on the right
        axes.annotate(
            f"{size_of_it} since {one_line(at.commit)}" if at.commit else size_of_it,
            (places[at.run] + (0.3 if late else -0.3), _beyond(series.points[step.at : step.at + 5], up) / size),
            xytext=(0, 5 if up else -5), textcoords="offset points", ha="right" if late else "left",
            va="bottom" if up else "top", fontsize=8.5, fontweight="bold", color=style.shade(look.colour, -0.25),
        )  # fmt: skip


def _beyond(points: Sequence[Point], up: bool) -> float:
    """Return the highest or lowest that some points and their intervals reach."""
    reached = [bound for p in points for bound in (p.value, p.low, p.high) if bound is not None]
    return max(reached) if up else min(reached)


def _gaps(axes: Axes, panel: Panel, places: dict[str, int], looks: dict[str, style.Look]) -> None:
    """Mark records without a value at the bottom of the panel, a row an implementation, with their statuses."""
    for row, name in enumerate(_gapped(panel)):
        found = {places[p.run]: p.gap for s in panel.series if s.key.impl == name for p in s.points if p.value is None}
        height, colour = 0.05 + 0.08 * row, looks[name].colour
        for place, gap in found.items():
            at = (place, height)
            axes.plot(*at, marker="x", color=colour, markeredgewidth=2, transform=axes.get_xaxis_transform())
            if found.get(place + 1) == gap:
                continue  # a stretch of one status is named once, at its end
            left = place == len(places) - 1 and found.get(place - 1) is None
            axes.annotate(
                gap, at, xycoords=axes.get_xaxis_transform(), xytext=(-6 if left else 6, 0),
                textcoords="offset points", ha="right" if left else "left", va="center", fontsize=8, color=colour,
            )  # fmt: skip


def _gapped(panel: Panel) -> list[str]:
    return sorted({s.key.impl for s in panel.series if any(point.value is None for point in s.points)})


def _breaks(axes: Axes, panel: Panel, places: dict[str, int]) -> None:
    """Draw a dotted line where a new series begins, with what changed."""
    changes: dict[int, dict[str, None]] = {}
    for series in panel.series:
        for text in series.begins:
            changes.setdefault(places[series.points[0].run], {})[one_line(text)] = None
    for place, texts in changes.items():
        axes.axvline(place - 0.5, color=style.OTHER, linewidth=1.1, linestyle=":")
        right = place > len(places) / 2
        axes.annotate(
            "\n".join(texts), (place - 0.5, 0.98), xycoords=axes.get_xaxis_transform(),
            xytext=(-4 if right else 4, 0), textcoords="offset points", ha="right" if right else "left", va="top",
            fontsize=8, style="italic", color=style.OTHER,
        )  # fmt: skip


def _value_axis(axes: Axes, panel: Panel, size: float, label: str) -> None:
    """Make the y axis, with room for the crosses below and for words above."""
    points = [point for series in panel.series for point in series.measured]
    reached = [bound for p in points for bound in (p.value, p.low, p.high) if bound is not None and bound > 0]
    low, high = math.log(min(reached) / size), math.log(max(reached) / size)
    middle, half = (low + high) / 2, max(high - low, math.log(LEAST_SPAN)) / 2
    crowded = 0.14 + 0.10 * len(_gapped(panel))
    above = 0.28 if any(series.begins for series in panel.series) else 0.16
    bottom, top = middle - half * (1 + 2 * crowded), middle + half * (1 + 2 * above)
    if high - low > math.log(LOGARITHMIC):
        axes.set_ylim(math.exp(bottom), math.exp(top))
        style.rate_axis(axes, label)
        return
    least, most = math.exp(middle - half), math.exp(middle + half)
    axes.set_ylim(least - (most - least) * crowded, most + (most - least) * above)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 0 else ""))
    axes.set_ylabel(label)


def _run_axis(axes: Axes, panel: Panel) -> None:
    """Name the runs, evenly thinned and the newest always, when there are too many to read."""
    count = len(panel.runs)
    every = math.ceil(count / LABELS)
    kept = [n for n in range(count) if (count - 1 - n) % every == 0]
    names = [f"{one_line(panel.runs[n].commit) or 'no commit'}\n{panel.runs[n].date:%Y-%m-%d}" for n in kept]
    axes.set_xticks(kept, names, fontsize=8)
    axes.grid(visible=False, axis="x")


def _end(series: Series) -> str:
    """Name of a line, and with which status it ends where its last record has no value."""
    name = one_line(series.key.impl) + (" (baseline)" if series.family == BASELINE else "")
    last = series.points[-1]
    return name if last.value is not None else f"{name}, now {last.gap}"


def _legend(panels: Sequence[Panel], metric: Metric) -> list[Line2D]:
    """Explain the marks that were drawn."""
    series = [one for panel in panels for one in panel.series]
    handles = []
    if any(point.low is not None for one in series for point in one.measured):
        handles.append(_mark("95 % interval within a run", marker="|", markersize=10, linestyle=""))
    if any(one.steps.steps for one in series):
        words = f"level between steps, with the change (+ is {metric.rises}; ? stands on one run)"
        handles.append(_mark(words, linewidth=LEVEL_WIDTH, alpha=SHADED))
    if any(point.value is None for one in series for point in one.points):
        handles.append(_mark("no figure, and why", marker="x", markeredgewidth=2, linestyle=""))
    if any(one.begins for one in series):
        handles.append(_mark("not the code: a new series begins", linestyle=":"))
    return handles


def _mark(label: str, **looks: Any) -> Line2D:  # noqa: ANN401 (matplotlib's own keywords)
    return Line2D([], [], color=style.OTHER, label=label, **looks)
