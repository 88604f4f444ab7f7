"""What two records can be compared by, and which direction is worse. Everything is judged as a cost: more is worse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.cases.shape import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.records.record import Record

ENERGY_REPEATABILITY = 0.018
"""Share by which one board's counter differed from itself at worst; figures repeat within 0.2 to 1.8 %."""
ENERGY_TICK_S = 0.1
"""The board's counter moves this often; a window may be off by one tick at either end."""


@dataclass(frozen=True)
class Metric:
    """A figure of a record. ``words`` say worse and better; of ``inverted`` figures more is better.

    ``sampled`` metrics have raw samples behind them and so an interval; of the others there is one figure a record.
    ``rises`` and ``falls`` name a change over time.
    """

    name: str
    title: str
    unit: str
    value: Callable[[Record], float | None]
    words: tuple[str, str] = ("SLOWER", "FASTER")
    rises: str = "slower"
    falls: str = "faster"
    sampled: bool = False
    inverted: bool = False

    def says(self, word: str) -> str:
        """Return a verdict on times in this metric's own words: nobody is slower for needing more bytes."""
        worse, better = self.words
        return {"SLOWER": worse, "FASTER": better}.get(word, word)

    def shown_ratio(self, log_ratio: float) -> float:
        """Turn a log-ratio of costs into the ratio of what is shown, new / base."""
        return math.exp(-log_ratio if self.inverted else log_ratio)


def _time(record: Record) -> float | None:
    return record.timing.median_ns if record.timing else None


def _rate(record: Record) -> float | None:
    return record.work.tokens_per_second if record.work else None


def _memory(record: Record) -> float | None:
    found = record.memory.beside_weights_bytes if record.memory and record.memory.status == "ok" else None
    return None if found is None else float(found)


def _energy(record: Record) -> float | None:
    energy = record.energy
    return energy.joules_per_token if energy and energy.status == "ok" else None


def _amount(name: str, title: str, unit: str, value: Callable[[Record], float | None]) -> Metric:
    return Metric(name, title, unit, value, ("MORE", "LESS"), rises=f"more {name}", falls=f"less {name}")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("time", "time of one call", "ns", _time, sampled=True),
        Metric(
            "tokens_per_second",
            "tokens per second",
            "tokens/s",
            _rate,
            rises="more tokens/s",
            falls="fewer tokens/s",
            sampled=True,
            inverted=True,
        ),
        _amount("memory", "memory of one call beside the weights", "bytes", _memory),
        _amount("energy", "energy of one token", "J/token", _energy),
    )
}


def metric_named(name: str) -> Metric:
    """Return a metric.

    Raises
    ------
    ValueError
        for a name that is none.
    """
    require(name in METRICS, "--metric", name, "one of " + ", ".join(METRICS))
    return METRICS[name]


def why_absent(record: Record, name: str) -> str:
    """Say why an ``ok`` record has no such figure, in its own words where it has some."""
    meter = {"memory": record.memory, "energy": record.energy}.get(name)
    return (meter.reason if meter else "") or "not measured"


def energy_floor(*records: Record) -> float:
    """Return the log-ratio that two energy windows of one board may differ by for no reason.

    A board's counter repeats within 0.2 to 1.8 % (its absolute error is far larger, which ratios on one board do not
    see), and a window's ends fall between two ticks of it.
    """
    shares = [
        ENERGY_REPEATABILITY + ENERGY_TICK_S / record.energy.window_s
        for record in records
        if record.energy and record.energy.window_s
    ]
    return math.log1p(math.hypot(*shares))
