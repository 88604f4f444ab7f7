"""Samples by the round they were taken in, and how two things compare round by round."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.records.record import Timing

Samples = dict[tuple[int, int], float]
"""Nanoseconds by (process, round)."""


def samples_of(timing: Timing) -> Samples:
    """Return a timing's samples by process and round.

    Raises
    ------
    ValueError
        when it does not say of every sample which round it is of.
    """
    processes = timing.processes or [0] * len(timing.rounds)
    if not len(processes) == len(timing.rounds) == len(timing.samples_ns):
        raise ValueError(f"{len(timing.samples_ns)} samples of {len(timing.rounds)} rounds")
    return dict(zip(zip(processes, timing.rounds, strict=True), timing.samples_ns, strict=True))


def log_ratios(base: Samples, new: Samples) -> dict[int, list[float]]:
    """log(new / base) of the rounds that both were timed in, by process.

    Raises
    ------
    ValueError
        for a time that is not a positive number.
    """
    for value in (*base.values(), *new.values()):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"a sample of {value} ns is not a time")
    found: dict[int, list[float]] = {}
    for place in sorted(base.keys() & new.keys()):
        found.setdefault(place[0], []).append(math.log(new[place]) - math.log(base[place]))
    return found
