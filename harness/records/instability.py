"""What was not quiet while a record was taken, in plain words, and what to do about it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.records import stats

if TYPE_CHECKING:
    from harness.records.record import Neighbours, Record

BUSY_SHARE = 0.05
"""Of the machine's CPU time: less than this for others or the hypervisor is not worth a word."""
WIDE = 0.05
"""Half the interval of the median, relative to it, from which on a record is called unsteady."""


def instability(record: Record, side: str = "") -> list[str]:
    """Say what disturbed a record, each with what to do; empty for a quiet one. ``side`` names it among two."""
    found = [*_from_samples(record), *_from_flags(record), *disturbance(record.neighbours)]
    return [f"{side}: {text}" if side else text for text in found]


def _from_samples(record: Record) -> list[str]:
    timing = record.timing
    if timing is None or not timing.samples_ns:
        return []
    samples, found = timing.samples_ns, []
    if not all(0 < sample < math.inf for sample in samples):
        return ["samples that are no times: the clock is broken; run `moebench doctor`, and measure again"]
    if len(samples) < stats.FEWEST:
        found.append(f"only {len(samples)} samples: raise --budget, or measure fewer cases")
    if stats.drifts(samples):
        found.append("speed drifted while it was measured: warm the machine up, or fix its clock, and measure again")
    if share := stats.bimodal(samples):
        found.append(f"two speeds, {share:.0%} of the samples at the slower: stop other processes, or fix the clock")
    if stats.relative_half_width(samples) > WIDE and len(samples) >= stats.FEWEST:
        found.append("an unsteady median: measure longer, or on a quieter machine")
    return found


def _from_flags(record: Record) -> list[str]:
    found = []
    if "throttled" in record.flags:
        found.append("the GPU throttled: let it cool, lower its power, or lock its clock")
    if "warm-up did not settle" in record.flags:
        found.append("still getting faster after warm-up: raise --budget")
    return found


def disturbance(neighbours: Neighbours | None) -> list[str]:
    """Say who else was at work while a record was taken, each with what to do."""
    if neighbours is None:
        return []
    found = []
    if (share := neighbours.others_share or 0.0) > BUSY_SHARE:
        found.append(f"other processes took {share:.0%} of the CPUs: stop them, or use fewer threads (OMP_NUM_THREADS)")
    if (share := neighbours.steal_share or 0.0) > BUSY_SHARE:
        found.append(f"the hypervisor took {share:.0%} of the CPUs: measure on a machine that is not shared")
    if neighbours.gpu_processes:
        found.append(f"{neighbours.gpu_processes} other processes on the GPU: wait for them, or take another GPU")
    return found
