"""History for people: sentences on steps, tables, and one Markdown page with its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.steps import ENOUGH
from harness.report import units
from harness.report.escape import Markdown, code, escape, markdown_table, one_line
from harness.report.history_tables import formatter, point_table, series_table
from harness.report.panels import Panel, panel_label, panels_of
from harness.report.plots import history as plot
from harness.report.style import in_style

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from harness.records.history import Point, Series
    from harness.records.metrics import Metric
    from harness.records.steps import Step

PAGE, PICTURE = "history.md", "history.png"

METHOD = (
    "A series is one case, one implementation in one version, on one host and device with one driver, torch and number "
    "of threads; a change of any of these starts a new series, never a step. Steps come from asv's step detection (a "
    "Potts model, points weighed by their intervals) and are kept when they exceed 0.5 %, three times the scatter from "
    "run to run, what the same code showed against itself, and the intervals; a step that stands on the newest run "
    "alone must exceed them by half as much again, and a single odd run inside a series is no step. asv takes slow "
    "drift for noise and wants a step of several times the scatter, so no step is no proof of no change. Below "
    f"{ENOUGH} points nothing is claimed. 'Over yardstick' is the median over rounds of the time over that of "
    "the implementation that took part twice in the same bout, which is named beside it: whatever slowed the whole "
    "machine cancels. Only times over the same yardstick compare; `--metric relative` starts a new series with another."
)


@dataclass(frozen=True)
class History:
    """What was asked for, and the series that answer it, those measured last first."""

    what: str
    metric: Metric
    series: tuple[Series, ...]

    @property
    def panels(self) -> list[Panel]:
        """Series with values, a panel a case and machine."""
        return panels_of(self.series)

    @property
    def measured(self) -> bool:
        """Whether any series has a value."""
        return any(series.measured for series in self.series)


def write_history(history: History, out: Path) -> Path:
    """Write ``out/history.md`` with its picture, and return the path of the page.

    Raises
    ------
    ValueError
        when no series has a value, or ``out`` cannot be written.
    """
    panels = history.panels
    if not panels:
        raise ValueError(f"history of {history.what!r}: no record holds a figure")
    page = out / PAGE
    try:
        out.mkdir(parents=True, exist_ok=True)
        with in_style():
            plot.draw(panels, history.metric, history.what).savefig(out / PICTURE)
        page.write_text("\n\n".join(_blocks(history, panels)) + "\n", encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"--out = {str(out)!r}: cannot be written: {error.strerror or error}") from None
    return page


def headline(history: History) -> str:
    """One line: how much there is, over which days."""
    measured = [series for series in history.series if series.measured]
    cases = len({series.key.case_id for series in measured})
    dates = {point.run: point.date for series in history.series for point in series.points}
    days = units.span(f"{min(dates.values()):%Y-%m-%d}", f"{max(dates.values()):%Y-%m-%d}")
    return f"{len(measured)} series of {units.plural(cases, 'case')} in {units.plural(len(dates), 'run')}, {days}"


def step_lines(history: History) -> list[str]:
    """Say every step in a sentence, newest first, or that there is none; and how many series are too short."""
    found = [(series.points[step.at].date, series, step) for series in history.series for step in series.steps.steps]
    found.sort(key=lambda each: each[0], reverse=True)
    lines = [
        f"{one_line(series.key.impl)} on {panel_label(series)}: {sentence(series, step, history.metric)}"
        for _, series, step in found
    ]
    measured = [series for series in history.series if series.measured]
    short = sum(bool(series.steps.note) for series in measured)
    if not found and short < len(measured):
        lines.append("No step that is larger than the noise.")
    if short:
        which = "all" if short == len(measured) else f"{short} of {len(measured)}"
        lines.append(
            f"Series with fewer than {ENOUGH} points: {which}; too few to tell a step from noise, none claimed."
        )
    return lines


def sentence(series: Series, step: Step, metric: Metric) -> str:
    """``slower by 12 % since abc1234 (2026-11-20): 1.00 ms until def5678 (2026-11-18), then 1.12 ms; …``."""
    form = formatter(metric)
    text = (
        f"{step.word} by {units.share(abs(step.change))} since {_when(series.points[step.at])}: {form(step.old)} until "
        f"{_when(series.points[step.before])}, then {form(step.new)}; noise up to {units.share(step.noise)}"
    )
    if step.newest_only:
        text += "; it stands on the newest run alone, so measure again"
    if step.same_revision:
        text += "; both are the same code, so look at the machine"
    return text


def unmeasured_lines(history: History) -> list[str]:
    """Say of every implementation whose series hold no value at all what their newest record says."""
    silent: dict[str, list[Series]] = {}
    for series in history.series:
        if not series.measured:
            silent.setdefault(series.key.impl, []).append(series)
    lines = []
    for impl, members in silent.items():
        last = max((series.points[-1] for series in members), key=lambda point: point.date)
        records = units.plural(sum(len(series.points) for series in members), "record")
        cases = units.plural(len({series.key.case_id for series in members}), "case")
        reason = one_line(f"{last.gap}: {last.reason}").rstrip(": ")
        lines.append(f"{one_line(impl)}: {records} of {cases}, none with a figure; the newest is {reason}")
    return lines


def _blocks(history: History, panels: Sequence[Panel]) -> Iterator[str]:
    yield f"# moebench history: {code(history.what)}, {history.metric.title}"
    yield f"{headline(history)}. Everything is read from records; nothing is measured here."
    yield "## Steps"
    yield "\n".join(f"- {escape(line)}" for line in step_lines(history))
    yield f"![How did it change from run to run?]({PICTURE})"
    yield plot.READING
    if left_out := plot.left_out(panels):
        yield f"The picture shows {left_out}; the tables below hold all."
    unmeasured = unmeasured_lines(history)
    if unmeasured:
        yield "## Without a figure"
        yield "\n".join(f"- {escape(line)}" for line in unmeasured)
    for panel in panels:
        yield f"## {escape(panel.label)}"
        yield markdown_table(*series_table(panel, history.metric))
        yield markdown_table(*point_table(panel, history.metric))
    yield "## How steps are found"
    yield Markdown(METHOD)


def _when(point: Point) -> str:
    """``abc1234 (2026-11-20)``; the run's name where no commit is known."""
    return f"{point.commit or point.run} ({point.date:%Y-%m-%d})"
