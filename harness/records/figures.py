"""The figures whose history is shown: what each is called, which way is worse, and how it is read from a record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from harness.cases.shape import require
from harness.records import stats
from harness.records.estimates import samples_of
from harness.records.metrics import METRICS, why_absent

if TYPE_CHECKING:
    from harness.records.record import Record

RELATIVE = "relative"
"""The measure that a machine's drift between runs leaves alone: time over that of the bout's yardstick, which is the
implementation that was entered a second time, as the A/A control."""


@dataclass(frozen=True)
class Measure:
    """A figure of a record over time. ``more`` and ``less`` name a change; ``more_is_worse`` says which one is bad."""

    name: str
    title: str
    unit: str
    more: str
    less: str
    more_is_worse: bool = True


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("time", "time of one call", "ns", "slower", "faster"),
        Measure("tokens_per_second", "tokens per second", "tokens/s", "more tokens/s", "fewer tokens/s", False),
        Measure("memory", "memory of one call beside the weights", "bytes", "more memory", "less memory"),
        Measure("energy", "energy of one token", "J/token", "more energy", "less energy"),
        Measure(RELATIVE, "time over the yardstick's", "x", "slower", "faster"),
    )
}


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval, or the reason why there is none. ``noise`` is a log-ratio, see ``Timing``."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    noise: float | None = None
    reason: str = ""


def measure_named(name: str) -> Measure:
    """Return a measure.

    Raises
    ------
    ValueError
        for a name that is none.
    """
    require(name in MEASURES, "--metric", name, "one of " + ", ".join(MEASURES))
    return MEASURES[name]


def figure_of(record: Record, name: str, yardstick: Record | None) -> Figure:
    """Read a measure from a record; ``yardstick`` is the record of its bout's yardstick, None when it has none."""
    if record.status != "ok":
        return Figure(reason=record.reason)
    if name == RELATIVE:
        return _relative(record, yardstick)
    value = METRICS[name].value(record)
    if value is None or not (math.isfinite(value) and value > 0):
        return Figure(reason=why_absent(record, name))
    low, high = _interval(record, name) or (None, None)
    return Figure(value, low, high, _noise(record) if METRICS[name].sampled else None)


def _interval(record: Record, name: str) -> tuple[float, float] | None:
    """95 % interval; of one figure a record, such as memory, there is none."""
    interval = record.timing.interval_ns if record.timing else None
    if not METRICS[name].sampled or interval is None or not 0 < interval[0] <= interval[1] < math.inf:
        return None
    if name == "time":
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
