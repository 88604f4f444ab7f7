"""Tables of a history: a line a series, a line a point, or a line a run with a column an implementation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from harness.report import units
from harness.report.escape import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.records.history import Point, Series
    from harness.records.metrics import Metric
    from harness.report.panels import Panel

Table = tuple[list[str], list[list[str]]]
"""Headers and rows."""

SERIES_HEADERS = (
    "implementation",
    "version",
    "software",
    "points",
    "newest",
    "over yardstick",
    "last measured",
    "steps",
)
POINT_HEADERS = ("day", "commit", "run", "implementation", "value", "95 % interval", "over yardstick", "note")


def series_table(panel: Panel, metric: Metric, without: Sequence[str] = ()) -> Table:
    """Make the table of one panel's series, less the columns ``without``."""
    rows = [_series_row(series, metric) for series in panel.series]
    return _kept(SERIES_HEADERS, rows, without)


def _series_row(series: Series, metric: Metric) -> list[str]:
    newest = series.measured[-1]
    gaps = len(series.points) - len(series.measured)
    return [
        series.key.impl,
        series.key.version,
        _software(series),
        f"{len(series.measured)}" + (f" and {units.plural(gaps, 'gap')}" if gaps else ""),
        formatter(metric)(newest.value),
        relative(newest),
        f"{newest.date:%Y-%m-%d}" + _now(series),
        _steps_cell(series),
    ]


def point_table(panel: Panel, metric: Metric) -> Table:
    """Make the table of one panel's points, oldest first."""
    form = formatter(metric)
    pairs = [(point, series) for series in panel.series for point in series.points]
    pairs.sort(key=lambda pair: (pair[0].date, pair[0].run, pair[1].key.impl))
    rows = [
        [
            f"{point.date:%Y-%m-%d}",
            point.commit or units.ABSENT,
            point.run,
            series.key.impl,
            form(point.value) if point.value is not None else point.gap,
            units.ABSENT if point.low is None else units.span(form(point.low), form(point.high)),
            relative(point),
            _note(series, point),
        ]
        for point, series in pairs
    ]
    return _kept(POINT_HEADERS, rows)


def run_table(panel: Panel, metric: Metric) -> Table:
    """Headers and rows of the narrow table of one panel: a row a run, a column an implementation.

    A cell holds the value, and in brackets the time over the yardstick's where that says more than the value.
    """
    form = formatter(metric)
    impls = list(dict.fromkeys(series.key.impl for series in panel.series))
    cells: dict[tuple[str, str], str] = {}
    for series in panel.series:
        for point in series.points:
            beside = f" ({relative(point)})" if point.relative and metric.name == "time" else ""
            text = form(point.value) + beside if point.value is not None else point.gap
            cells[point.run, series.key.impl] = text
    rows = [
        [f"{run.date:%Y-%m-%d}", run.commit, *(cells.get((run.run, impl), units.ABSENT) for impl in impls)]
        for run in panel.runs
    ]
    return ["day", "commit", *map(one_line, impls)], rows


def relative(point: Point) -> str:
    """Write the time over that of the bout's yardstick, and whose that was: ``3.16x dense``."""
    return units.ABSENT if point.relative is None else f"{units.ratio(point.relative)} {one_line(point.yardstick)}"


def formatter(metric: Metric) -> Callable[[float | None], str]:
    """How a value of a metric is written."""
    return partial(units.figure, unit=metric.unit)


def _kept(headers: Sequence[str], rows: Sequence[Sequence[str]], without: Sequence[str] = ()) -> Table:
    """Leave out columns in which no row says anything, and those that nobody wants."""
    told = [n for n in range(len(headers)) if any(row[n] not in {"", units.ABSENT} for row in rows)]
    kept = [n for n in told if headers[n] not in without]
    return [headers[n] for n in kept], [[row[n] for n in kept] for row in rows]


def _software(series: Series) -> str:
    machine = series.key.machine
    parts = [f"{name} {value}" for name, value in (("torch", machine.torch), ("driver", machine.driver)) if value]
    parts += [f"{machine.threads} threads"] if machine.threads else []
    parts += [f"over {series.key.yardstick}"] if series.key.yardstick else []
    return ", ".join(parts)


def _now(series: Series) -> str:
    """Say that a series ended without a figure."""
    last = series.points[-1]
    return "" if last.value is not None else f", now {last.gap}"


def _steps_cell(series: Series) -> str:
    begun = f"new series: {', '.join(series.begins)}" if series.begins else ""
    steps = f"{len(series.steps.steps)}" if series.steps.steps else series.steps.note or "none"
    return "; ".join(filter(None, (steps, begun)))


def _note(series: Series, point: Point) -> str:
    """Say of one point why it has no figure, that a series begins there, or a step."""
    at = series.points.index(point)
    said = [f"new series: {', '.join(series.begins)}"] if at == 0 and series.begins else []
    said += [f"{step.word} by {units.share(abs(step.change))}" for step in series.steps.steps if step.at == at]
    said += [one_line(point.reason)] if point.value is None and point.reason else []
    return "; ".join(said)
