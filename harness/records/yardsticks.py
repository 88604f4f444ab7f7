"""Comparing what was measured at different times, through what was measured both times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from harness.records import estimates, rounds
from harness.records.comparable import timed_differently, unchanged
from harness.records.verdicts import SIGNIFICANCE, Scatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.environment import Calibration
    from harness.records.estimates import Estimate
    from harness.records.record import Record

ENOUGH_UNCHANGED = 5
"""Implementations of unchanged code that it takes to tell from them what two processes differ by."""
ASSUMED_PROCESS_FLOOR = 0.05
"""Log-ratio taken for granted between two processes where nothing is known. Calibration finds the machine's own."""

SIDE_BY_SIDE = "measure both side by side, with `moebench compare --rev`"


@dataclass(frozen=True)
class Yard:
    """An implementation of unchanged code that both bouts measured, ok both times."""

    base: Record
    new: Record

    @classmethod
    def between(cls, base_bout: Sequence[Record], new_bout: Sequence[Record], base: Record, new: Record) -> Yard | None:
        """Choose the bouts' A/A control, or else the unchanged implementation that has most samples; None without.

        Never one of the two that are compared.
        """
        others = {record.impl.name: record for record in new_bout}
        measured = {base.impl.name, new.impl.name}
        found = [
            cls(record, others[record.impl.name])
            for record in base_bout
            if record.impl.name in others.keys() - measured and _usable(record, others[record.impl.name])
        ]
        return max(found, key=_worth, default=None)


def _usable(base: Record, new: Record) -> bool:
    if not (unchanged(base, new) and base.status == new.status == "ok" and base.timing and new.timing):
        return False
    return not timed_differently(base.timing, new.timing)


def _worth(yard: Yard) -> tuple[bool, int]:
    timings = [one.timing for one in (yard.base, yard.new) if one.timing]
    return all(timing.control_ns for timing in timings), min(len(timing.samples_ns) for timing in timings)


def measured_by_yardstick(base: Record, new: Record, yard: Yard | None) -> tuple[Estimate | None, str]:
    """Estimate log(new / base), each relative to the yardstick of its own bout, and say so.

    Raises
    ------
    ValueError
        when there is no yardstick, a sample is no time, or the two were timed differently.
    """
    if yard is None:
        raise ValueError("measured at different times, and the bouts share no other implementation of unchanged code")
    if base.timing and new.timing and (differs := timed_differently(base.timing, new.timing)):
        raise ValueError(f"timed differently: {differs}")
    relative = [_relative(one, stick) for one, stick in ((base, yard.base), (new, yard.new))]
    how = f"through {yard.base.impl.name}, measured both times"
    if relative[0] is None or relative[1] is None:
        return None, how
    return estimates.difference(relative[0], relative[1]), how


def _relative(record: Record, yardstick: Record) -> Estimate | None:
    assert record.timing is not None
    assert yardstick.timing is not None
    ratios = rounds.log_ratios(rounds.samples_of(yardstick.timing), rounds.samples_of(record.timing))
    return estimates.paired(ratios)


def process_scatter(same_code: Sequence[float], calibrations: Sequence[Calibration]) -> tuple[Scatter, str]:
    """Return what two processes running the same code differ by, and in words how it is known.

    ``same_code`` are the log-ratios that implementations of unchanged code showed between the two runs: a process
    lays out its memory anew, and no number of rounds averages that. ``calibrations`` are those of the two machines.
    """
    known = [
        Scatter(one.process_floor, one.processes - 1, SIDE_BY_SIDE)
        for one in calibrations
        if one.process_floor is not None and one.processes > 1
    ]
    if len(same_code) >= ENOUGH_UNCHANGED:
        freedom = len(same_code)  # one more than usual: their mean is known to be nothing
        spread = math.sqrt(float(np.mean(np.square(same_code))))
        scatter = Scatter(float(stats.t.isf(SIGNIFICANCE / 2, freedom)) * spread, freedom, SIDE_BY_SIDE)
        words = "unchanged code differed by about {} between the runs"
    elif known:
        scatter = max(known, key=lambda one: one.floor)
        words = "processes differ by up to {} here, as calibrated"
    else:
        scatter = Scatter(ASSUMED_PROCESS_FLOOR, remedy=SIDE_BY_SIDE)
        words = "processes are assumed to differ by up to {}; `moebench calibrate` finds out"
    return scatter, words.format(f"{math.expm1(scatter.floor):.1%}")
