"""Every derived figure by hand, and nothing faster than possible passes for ordinary."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.derive import IMPOSSIBLE_SHARE, derive
from harness.records.record import Energy

SAMPLES_NS = [400e3, 380e3, 420e3, 390e3, 410e3, 400e3, 1000e3]
"""Median 400 us; too few to call the last one a drift."""


def test_without_timing_nothing_is_derived(make: Any) -> None:
    record = make.record(status="error", reason="it raised", work=make.work(floor_ns=1.0))
    assert derive(record, make.ceilings()) == make.record(
        status="error", reason="it raised", work=make.work(floor_ns=1.0)
    )


def test_timing_by_hand(make: Any) -> None:
    timing = make.timing(SAMPLES_NS)
    derive(make.record(timing=timing), None)
    assert timing.median_ns == 400e3
    assert timing.min_ns == 380e3
    assert timing.p05_ns == pytest.approx(383e3)  # 0.3 of the way from the smallest to the next
    assert timing.p95_ns == pytest.approx(826e3)  # 0.7 of the way from the second largest to the largest
    assert timing.interval_ns == (380e3, 1000e3)  # seven samples: the whole range
    assert timing.samples_ns == SAMPLES_NS


def test_work_by_hand(make: Any) -> None:
    work = make.work(useful_flops=4e6, min_bytes=2e3, floor_ns=100e3, floor_datasheet_ns=50e3)
    record = derive(make.record(tokens=8, timing=make.timing(SAMPLES_NS), work=work), make.ceilings())
    assert record.status == "ok"
    assert record.flags == []
    assert work.tokens_per_second == pytest.approx(8 / 400e-6)
    assert work.tflops == pytest.approx(4e6 / 400e-6 / 1e12)
    assert work.gbytes_per_second == pytest.approx(2e3 / 400e-6 / 1e9)
    assert work.share_of_floor == pytest.approx(0.25)
    assert work.share_of_datasheet_floor == pytest.approx(0.125)
    assert work.share_of_gemm_ceiling == pytest.approx(4e6 / 400e-6 / 100e9)
    assert work.share_of_read_ceiling == pytest.approx(2e3 / 400e-6 / 10e9)


@pytest.mark.parametrize(("tokens", "flags"), [(8, []), (9, ["trace repeated"])])
def test_a_trace_shorter_than_the_case_is_flagged(make: Any, tokens: int, flags: list[str]) -> None:
    record = make.record(tokens=tokens, timing=make.timing(SAMPLES_NS))
    spread = "trace:mine.npz?layer=1&rows=8#0123456789abcdef"
    traffic = msgspec.structs.replace(record.case.traffic, spread=spread)
    record.case = msgspec.structs.replace(record.case, traffic=traffic)
    assert derive(record, None).flags == flags


def test_hot_weights_are_held_against_the_cache(make: Any) -> None:
    work = make.work()
    derive(make.record(timing=make.timing(SAMPLES_NS, cache="hot"), work=work), make.ceilings())
    assert work.share_of_read_ceiling == pytest.approx(2e3 / 400e-6 / 40e9)


def test_what_was_not_measured_stays_absent(make: Any) -> None:
    work = make.work()
    derive(make.record(timing=make.timing(SAMPLES_NS), work=work), None)
    assert work.tflops is not None
    assert (work.share_of_floor, work.share_of_datasheet_floor) == (None, None)
    assert (work.share_of_gemm_ceiling, work.share_of_read_ceiling) == (None, None)
    derive(make.record(timing=make.timing(SAMPLES_NS), work=work), make.ceilings(gemm_flops_per_second={"bf16": 1e12}))
    assert work.share_of_gemm_ceiling is None


@pytest.mark.parametrize("field", ["floor_ns", "floor_datasheet_ns"])
@pytest.mark.parametrize(
    ("share", "status", "flags"),
    [
        (0.99, "ok", []),
        (1.0, "ok", []),
        (1.01, "ok", ["above measured ceiling"]),
        (1.049, "ok", ["above measured ceiling"]),
        (1.051, "impossible", []),
        (7.0, "impossible", []),
    ],
)
def test_faster_than_the_floor(make: Any, field: str, share: float, status: str, flags: list[str]) -> None:
    work = make.work(**{field: share * 400e3})
    record = derive(make.record(timing=make.timing(SAMPLES_NS), work=work), make.ceilings())
    assert record.status == status
    assert record.flags == flags
    assert (f"{share:.0%}" in record.reason) == (status == "impossible")


floors = st.none() | st.floats(0.0, 1e12)


@given(st.lists(st.floats(1.0, 1e12), min_size=1, max_size=30), floors, floors)
def test_a_median_below_a_floor_is_never_passed_over(
    make: Any, samples: list[float], floor: float | None, datasheet: float | None
) -> None:
    work = make.work(floor_ns=floor, floor_datasheet_ns=datasheet)
    timing = make.timing(samples)
    record = derive(make.record(timing=timing, work=work), make.ceilings())
    median = timing.median_ns
    highest = max(floor or 0.0, datasheet or 0.0)
    assert (record.status == "impossible" or "above measured ceiling" in record.flags) == (median < highest)
    assert (record.status == "impossible") == (highest / median > IMPOSSIBLE_SHARE)
    assert (record.status == "impossible") == bool(record.reason)


def test_flags_of_the_clock(make: Any) -> None:
    assert derive(make.record(timing=make.timing([100.0] * 6 + [110.0] * 3)), None).flags == ["drift"]
    assert derive(make.record(timing=make.timing([100.0] * 9, warm=False)), None).flags == ["warm-up did not settle"]


def test_what_must_be_said_of_an_implementation_is_a_flag(make: Any) -> None:
    record = make.record(timing=make.timing(SAMPLES_NS))
    record.impl = msgspec.structs.replace(record.impl, note="never verified")
    assert derive(record, None).flags == ["never verified"]


def test_energy_by_hand(make: Any) -> None:
    energy = Energy(status="ok", joules=600.0, window_s=3.0, calls=1000)
    derive(make.record(tokens=8, timing=make.timing(SAMPLES_NS), energy=energy), None)
    assert energy.mean_watts == pytest.approx(200.0)
    assert energy.joules_per_call == pytest.approx(0.6)
    assert energy.joules_per_token == pytest.approx(0.075)


def test_no_tokens_no_energy_per_token(make: Any) -> None:
    energy, work = Energy(status="ok", joules=600.0, window_s=3.0, calls=1000), make.work()
    derive(make.record(tokens=0, timing=make.timing(SAMPLES_NS), energy=energy, work=work), None)
    assert energy.joules_per_call == pytest.approx(0.6)
    assert energy.joules_per_token is None
    assert work.tokens_per_second == 0.0


def test_energy_that_was_not_measured_stays_absent(make: Any) -> None:
    energy = Energy(status="unavailable", reason="no board")
    record = derive(make.record(timing=make.timing(SAMPLES_NS), energy=energy), None)
    assert record.energy == Energy(status="unavailable", reason="no board")


@pytest.mark.parametrize(
    ("reasons", "flags"),
    [(["sw_thermal"], ["throttled"]), (["gpu_idle", "hw_power_brake"], ["throttled"]), (["gpu_idle"], [])],
)
def test_throttling_is_flagged(make: Any, reasons: list[str], flags: list[str]) -> None:
    energy = Energy(status="ok", joules=1.0, window_s=1.0, calls=1, throttle_reasons=reasons)
    assert derive(make.record(timing=make.timing(SAMPLES_NS), energy=energy), None).flags == flags
