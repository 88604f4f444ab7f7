from __future__ import annotations

import math
from typing import Any

import pytest

from harness.records.derive import derive
from harness.records.figures import TRACKED, Figure, figure_of, tracked_named
from harness.records.record import Energy, Memory, Record
from harness.records.stats import median_interval

SAMPLES = [100.0, 104.0, 96.0, 101.0, 99.0, 103.0, 97.0]


def timed(make: Any, name: str = "loop", samples: list[float] = SAMPLES, **fields: Any) -> Record:
    given = {"timing": make.timing(samples, noise_floor=0.01), "work": make.work()} | fields
    return derive(make.record(name, **given), None)


def test_time_with_its_interval_and_noise(make: Any) -> None:
    assert figure_of(timed(make), TRACKED["time"], None) == Figure(100.0, *median_interval(SAMPLES), 0.01)


def test_tokens_per_second_turn_the_interval_round(make: Any) -> None:
    figure = figure_of(timed(make), TRACKED["tokens_per_second"], None)
    low, high = median_interval(SAMPLES)
    assert (figure.value, figure.low, figure.high) == pytest.approx((8 / 100e-9, 8 / (high * 1e-9), 8 / (low * 1e-9)))
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < figure.high


def test_memory_and_energy_have_no_interval(make: Any) -> None:
    energy = Energy(status="ok", joules=16.0, window_s=2.0, calls=2)
    record = timed(make, memory=Memory(status="ok", peak_bytes=4096), energy=energy)
    assert figure_of(record, TRACKED["memory"], None) == Figure(4096.0)
    assert figure_of(record, TRACKED["energy"], None) == Figure(1.0)


def test_relative_is_taken_round_by_round(make: Any) -> None:
    """A machine that slows down for both in the middle of a bout changes nothing."""
    drift = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    own = timed(make, samples=[300.0 * slow for slow in drift])
    control = timed(make, "dense", [100.0 * slow for slow in drift])
    assert figure_of(own, TRACKED["relative"], control) == Figure(3.0, 3.0, 3.0, 0.01)


@pytest.mark.parametrize(
    ("measure", "fields", "reason"),
    [
        ("time", {"timing": None}, "not measured"),
        ("tokens_per_second", {"work": None}, "not measured"),
        ("memory", {}, "not measured"),
        ("memory", {"memory": Memory(status="unavailable", reason="no allocator events")}, "no allocator events"),
        ("energy", {"energy": Energy(status="unreliable", reason="too short", joules=1.0)}, "too short"),
        ("energy", {"energy": Energy(status="unavailable", reason="no NVML")}, "no NVML"),
        ("relative", {}, "its bout has no yardstick: nobody was timed twice"),
    ],
)
def test_what_is_missing_says_why(make: Any, measure: str, fields: dict[str, Any], reason: str) -> None:
    assert figure_of(timed(make, **fields), TRACKED[measure], None) == Figure(reason=reason)


def test_the_yardstick_has_no_time_relative_to_itself(make: Any) -> None:
    record = timed(make)
    assert figure_of(record, TRACKED["relative"], record).reason == "it is the yardstick itself"


def test_no_shared_round(make: Any) -> None:
    control = timed(make, "dense", timing=make.timing([1.0], rounds=[99]))
    assert figure_of(timed(make), TRACKED["relative"], control).reason == "no round timed both it and the yardstick"


@pytest.mark.parametrize("measure", TRACKED)
def test_a_record_that_is_not_ok_has_no_figure(make: Any, measure: str) -> None:
    record = timed(make, status="impossible", reason="faster than light")
    assert figure_of(record, TRACKED[measure], record) == Figure(reason="faster than light")


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.0, -1.0])
def test_what_is_no_positive_number_is_absent(make: Any, wrong: float) -> None:
    record = timed(make)
    assert record.timing is not None
    record.timing.median_ns = wrong
    assert figure_of(record, TRACKED["time"], None).value is None


def test_an_unknown_measure_is_refused_with_all_there_are() -> None:
    assert tracked_named("relative") is TRACKED["relative"]
    with pytest.raises(ValueError, match=r"^--metric = 'speed': one of time, .*relative$"):
        tracked_named("speed")
