"""The figures whose history is shown, each with its interval, or why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from harness.cases.shape import require
from harness.records import stats
from harness.records.metrics import METRICS, Metric, why_absent
from harness.records.rounds import samples_of

if TYPE_CHECKING:
    from harness.records.record import Record

RELATIVE = Metric("relative", "time over the yardstick's", "x", lambda _: None, sampled=True)
"""What a machine's drift between runs leaves alone: time over that of the bout's yardstick, which is the implementation
that was entered a second time, as the A/A control. Not a figure of one record alone."""
TRACKED = {**METRICS, RELATIVE.name: RELATIVE}
"""What has a history, by name."""


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval, or the reason why there is none. ``noise`` is a log-ratio, see ``Timing``."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    noise: float | None = None
    reason: str = ""


def tracked_named(name: str) -> Metric:
    """Return a metric that has a history.

    Raises
    ------
    ValueError
        for a name that is none.
    """
    require(name in TRACKED, "--metric", name, "one of " + ", ".join(TRACKED))
    return TRACKED[name]


def figure_of(record: Record, metric: Metric, yardstick: Record | None) -> Figure:
    """Read a metric from a record; ``yardstick`` is the record of its bout's yardstick, None when it has none."""
    if record.status != "ok":
        return Figure(reason=record.reason)
    if metric is RELATIVE:
        return _relative(record, yardstick)
    value = metric.value(record)
    if value is None or not (math.isfinite(value) and value > 0):
        return Figure(reason=why_absent(record, metric.name))
    low, high = _interval(record, metric) or (None, None)
    return Figure(value, low, high, _noise(record) if metric.sampled else None)


def _interval(record: Record, metric: Metric) -> tuple[float, float] | None:
    """95 % interval; of one figure a record, such as memory, there is none."""
    interval = record.timing.interval_ns if record.timing else None
    if not metric.sampled or interval is None or not 0 < interval[0] <= interval[1] < math.inf:
        return None
    if not metric.inverted:
        return interval
    tokens = record.case.traffic.tokens
    return tokens / interval[1] * 1e9, tokens / interval[0] * 1e9


def _relative(record: Record, yardstick: Record | None) -> Figure:
    """Median over rounds of the time over the yardstick's in the same round, with the interval of that median."""
    if record.timing is None or yardstick is None or yardstick.timing is None:
        return Figure(reason="its bout has no yardstick: nobody was timed twice")
    if yardstick.impl.name == record.impl.name:
        return Figure(reason="it is the yardstick itself")
    own, its = samples_of(record.timing), samples_of(yardstick.timing)
    ratios = [own[place] / its[place] for place in own.keys() & its.keys() if its[place] > 0]
    if not ratios or not 0 < median(ratios) < math.inf:
        return Figure(reason="no round timed both it and the yardstick")
    low, high = stats.time_interval(ratios) or (None, None)
    return Figure(median(ratios), low, high, noise=_noise(record))


def _noise(record: Record) -> float | None:
    noise = record.timing.noise_floor if record.timing else None
    return noise if noise is not None and math.isfinite(noise) else None
