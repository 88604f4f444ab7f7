"""What ``moebench compare`` shows: a table of verdicts, worst first, and what to make of it in plain words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from harness.report import units
from harness.report.notes import counted, ranges

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.records.comparison import Comparison, Result

HEADERS = ("verdict", "implementation", "base", "new", "change", "95 % interval", "counts from", "case")
BRIEFLY = (0, 1, 4, 5, 7)
"""Of ``HEADERS``, what is shown in a terminal narrower than ``FULL_WIDTH``."""
FULL_WIDTH = 120
OF_MEMORY = "memory: what a call takes at its peak, output included, and what prepare keeps; without weights and inputs"
OF_CHANGE = "change: from ratios of what was timed side by side in the same round, not the ratio of the two medians"


def verdict_rows(result: Result) -> list[tuple[str, ...]]:
    """Rows under ``HEADERS`` for everything that something could be said of."""
    return [_row(one, result.question.metric.unit) for one in result.compared]


def _row(one: Comparison, unit: str) -> tuple[str, ...]:
    interval = "" if one.interval is None else units.span(*(change(end) for end in one.interval))
    counts = "" if one.delta is None else units.share(one.delta)
    figures = (units.figure(one.base, unit), units.figure(one.new, unit))
    return (one.verdict, one.impl, *figures, change(one.ratio), interval, counts, one.case)


def change(ratio: float | None) -> str:
    """Format new / base as the change in percent: ``+3.2 %``."""
    return units.ABSENT if ratio is None else f"{round(100 * (ratio - 1), 1) + 0:+.1f} %"  # + 0: no -0.0 %


def verdict_notes(result: Result) -> list[str]:
    """Say what stands under the table: reasons, what was compared through what, what was not quiet."""
    notes = [
        f"{one.verdict}: {one.impl} on {one.case}: {one.reason}" for one in result.compared if one.outcome in _EXPLAINED
    ]
    if any(one.interval and one.how.startswith(_ROUND_BY_ROUND) for one in result.compared):
        notes.append(OF_CHANGE)
    if result.question.metric.name == "memory" and result.compared:
        notes.append(OF_MEMORY)
    ambiguous = (one.reason for one in result.compared if one.outcome == "AMBIGUOUS")
    apart = (one.reason for one in result.comparisons if one.outcome == "NOT COMPARABLE")
    notes += _told("ambiguous", counted(ambiguous))
    notes += _told("compared", counted(one.how for one in result.compared))
    notes += _told("not quiet", ranges(note for one in result.compared for note in one.notes))
    notes += _told("not comparable", counted(apart))
    return notes


_EXPLAINED = ("BROKEN", "FIXED")
_ROUND_BY_ROUND = ("side by side", "through ")
"""How a comparison begins to say that its change comes from rounds; raw times and single figures are just divided."""


def _told(word: str, counted: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{word} ({count}): {text}" for text, count in counted]


def verdict_summary(result: Result) -> str:
    """One line: how many of which, and the geometric mean."""
    counts = Counter(one.verdict for one in result.compared)
    said = ", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing comparable"
    if result.mean is None or len(result.compared) < 2:
        return f"{said}."
    metric = result.question.metric
    mean = change(metric.shown_ratio(result.mean.log_ratio))
    ends = sorted(metric.shown_ratio(end) for end in (result.mean.low, result.mean.high))
    interval = units.span(*(change(end) for end in ends))
    around = "" if interval == mean else f" ({interval})"
    return f"{said}. Geometric mean of the change in {metric.name.replace('_', ' ')}: {mean}{around}."


def verdict_json(result: Result) -> dict[str, Any]:
    """Everything, for machines. Ratios are new / base of the metric as shown."""
    question, metric = result.question, result.question.metric
    mean = None
    if result.mean is not None:
        ends = sorted(metric.shown_ratio(end) for end in (result.mean.low, result.mean.high))
        mean = {"ratio": metric.shown_ratio(result.mean.log_ratio), "interval": ends}
    return {
        "metric": metric.name,
        "unit": metric.unit,
        "threshold": question.threshold,
        "across": sorted(question.across),
        "regressions": len(result.regressions),
        "compared": len(result.compared),
        "geometric_mean": mean,
        "comparisons": msgspec.to_builtins(result.comparisons),
    }
