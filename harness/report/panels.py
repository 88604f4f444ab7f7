"""Which series of a history belong together: those of one case on one host and device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.report.escape import one_line
from harness.report.labels import short_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.history import Point, Series


@dataclass(frozen=True)
class Panel:
    """The series of one case on one host and device, and its runs in order: a point of each."""

    series: tuple[Series, ...]
    runs: tuple[Point, ...]

    @property
    def label(self) -> str:
        """The case and the machine."""
        return panel_label(self.series[0])

    @property
    def measured(self) -> int:
        """How many points have a value."""
        return sum(len(series.measured) for series in self.series)


def panel_label(series: Series) -> str:
    """Case, host and device of a series."""
    machine = series.key.machine
    return one_line(f"{series.label}; {machine.hostname}, {short_name(machine.device)}")


def panels_of(series: Sequence[Series]) -> list[Panel]:
    """Group series that have any value into panels: those measured last come first, then those with most points."""
    grouped: dict[tuple[str, str, str], list[Series]] = {}
    for one in series:
        if one.measured:
            grouped.setdefault(one.key.place, []).append(one)
    found = []
    for members in grouped.values():
        points = {point.run: point for one in members for point in one.points}
        runs = sorted(points.values(), key=lambda point: (point.date, point.run))
        ordered = sorted(members, key=lambda one: (one.points[0].date, one.key.impl))
        found.append(Panel(tuple(ordered), tuple(runs)))
    return sorted(found, key=lambda panel: (-panel.runs[-1].date.timestamp(), -panel.measured, panel.label))
