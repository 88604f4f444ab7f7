"""Figures that follow from others, computed here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.records import stats

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.records.environment import Ceilings
    from harness.records.record import Energy, Record, Timing, Work

IMPOSSIBLE_SHARE = 1.05
"""A median above this share of its own floor's speed condemns the record; between 1 and this it is only flagged, since
the measured ceiling carries a few percent of noise itself."""


def derive(record: Record, ceilings: Ceilings | None) -> Record:
    """Fill a record's derived fields in place and return it.

    A measured time below the floor is never passed over: beyond ``IMPOSSIBLE_SHARE`` the status becomes
    ``impossible``, below it the record is flagged ``above measured ceiling``.
    """
    timing, work = record.timing, record.work
    if timing is None or not timing.samples_ns:
        return record
    _derive_timing(timing)
    if record.impl.note:
        record.flags.append(record.impl.note)
    replay = record.case.traffic.replay
    if replay and replay.rows is not None and replay.rows < record.case.traffic.tokens:
        record.flags.append("trace repeated")
    if stats.drifts(timing.samples_ns):
        record.flags.append("drift")
    if not timing.warm:
        record.flags.append("warm-up did not settle")
    if work is not None:
        _derive_work(work, timing, record.case, ceilings)
        _judge_share(record, work)
    if record.energy is not None:
        _derive_energy(record.energy, record.case.traffic.tokens)
        if set(record.energy.throttle_reasons) & {"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"}:
            record.flags.append("throttled")
    return record


def _derive_timing(timing: Timing) -> None:
    samples = np.asarray(timing.samples_ns, dtype=np.float64)
    timing.median_ns = float(np.median(samples))
    timing.min_ns = float(samples.min())
    timing.p05_ns, timing.p95_ns = (float(q) for q in np.quantile(samples, (0.05, 0.95)))
    timing.interval_ns = stats.time_interval(timing.samples_ns)
    timing.min_interval_ns = stats.min_interval(timing.samples_ns)


def _derive_work(work: Work, timing: Timing, case: Case, ceilings: Ceilings | None) -> None:
    assert timing.median_ns is not None
    seconds = timing.median_ns / 1e9
    work.tokens_per_second = case.traffic.tokens / seconds
    work.tflops = work.useful_flops / seconds / 1e12
    work.gbytes_per_second = work.min_bytes / seconds / 1e9
    if work.floor_ns is not None:
        work.share_of_floor = work.floor_ns / timing.median_ns
    if work.floor_datasheet_ns is not None:
        work.share_of_datasheet_floor = work.floor_datasheet_ns / timing.median_ns
    if ceilings is not None:
        gemm = ceilings.gemm_flops_per_second.get(case.dtype)
        cold = timing.cache == "cold"
        read = ceilings.read_bytes_per_second if cold else ceilings.cached_read_bytes_per_second
        work.share_of_gemm_ceiling = work.useful_flops / seconds / gemm if gemm else None
        work.share_of_read_ceiling = work.min_bytes / seconds / read if read else None


def _judge_share(record: Record, work: Work) -> None:
    share = max(work.share_of_floor or 0.0, work.share_of_datasheet_floor or 0.0)
    if share > IMPOSSIBLE_SHARE and record.status == "ok":
        record.status = "impossible"
        record.reason = (
            f"{share:.0%} of what this device can do: the measurement or the ceiling is wrong. Look at the ceilings in"
            " the report's table of machines, and check that the implementation does its work before it returns"
        )
    elif share > 1:
        record.flags.append("above measured ceiling")


def _derive_energy(energy: Energy, tokens: int) -> None:
    if energy.joules is None or not energy.calls or not energy.window_s:
        return
    energy.mean_watts = energy.joules / energy.window_s
    energy.joules_per_call = energy.joules / energy.calls
    energy.joules_per_token = energy.joules_per_call / tokens if tokens else None
