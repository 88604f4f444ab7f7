"""Each metric's figure, direction and words, and why there is none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.metrics import ENERGY_REPEATABILITY, METRICS, energy_floor, metric_named, why_absent
from harness.records.record import Energy, Memory

if TYPE_CHECKING:
    from harness.records.record import Record
    from tests.records.conftest import Maker


@pytest.fixture(scope="module")
def record(make: Maker) -> Record:
    """A record with every figure: 2 ms for 8 tokens, 3 KiB, 1 J for 10 calls."""
    return make.timed(
        "loop",
        2e6,
        noise=0,
        memory=Memory(status="ok", peak_bytes=2048, prepared_bytes=1024),
        energy=Energy(status="ok", joules=1.0, calls=10, window_s=2.0),
    )


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("time", 2e6, "ns"),
        ("tokens_per_second", 4000.0, "tokens/s"),
        ("memory", 3072.0, "bytes"),
        ("energy", 0.0125, "J/token"),
    ],
)
def test_a_metric_reads_its_figure(record: Record, name: str, value: float, unit: str) -> None:
    metric = metric_named(name)
    assert metric.value(record) == pytest.approx(value)
    assert metric.unit == unit


@pytest.mark.parametrize(
    ("name", "worse", "better"),
    [
        ("time", "SLOWER", "FASTER"),
        ("tokens_per_second", "SLOWER", "FASTER"),
        ("memory", "MORE", "LESS"),
        ("energy", "MORE", "LESS"),
    ],
)
def test_a_metric_speaks_its_own_words(name: str, worse: str, better: str) -> None:
    says = metric_named(name).says
    assert (says("SLOWER"), says("FASTER")) == (worse, better)
    assert (says("SAME"), says("AMBIGUOUS"), says("BROKEN")) == ("SAME", "AMBIGUOUS", "BROKEN")


@given(st.floats(-3, 3))
def test_what_is_shown_points_the_way_people_expect(log_ratio: float) -> None:
    assert METRICS["time"].shown_ratio(log_ratio) == pytest.approx(math.exp(log_ratio))
    assert METRICS["tokens_per_second"].shown_ratio(log_ratio) == pytest.approx(math.exp(-log_ratio))


def test_only_figures_with_samples_have_an_interval() -> None:
    assert {name for name, metric in METRICS.items() if metric.sampled} == {"time", "tokens_per_second"}


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--metric = 'speed': one of time, tokens_per_second, memory, energy"):
        metric_named("speed")


def test_what_was_not_measured_has_no_figure_and_says_why(make: Maker) -> None:
    bare = make.record()
    assert [metric.value(bare) for metric in METRICS.values()] == [None] * 4
    assert why_absent(bare, "energy") == why_absent(bare, "time") == "not measured"
    told = make.record(
        memory=Memory(status="unavailable", reason="no allocator to ask", peak_bytes=7),
        energy=Energy(status="unreliable", reason="the window was too short", joules_per_token=1.0),
    )
    assert METRICS["memory"].value(told) is METRICS["energy"].value(told) is None
    assert why_absent(told, "memory") == "no allocator to ask"
    assert why_absent(told, "energy") == "the window was too short"
    half = make.record(memory=Memory(status="ok"), energy=Energy(status="ok"))
    assert METRICS["memory"].value(half) is METRICS["energy"].value(half) is None


def test_short_energy_windows_tell_less(make: Maker) -> None:
    def windows(*seconds: float) -> float:
        return energy_floor(*(make.record(energy=Energy(status="ok", window_s=second)) for second in seconds))

    assert windows(1e9, 1e9) == pytest.approx(math.log1p(math.sqrt(2) * ENERGY_REPEATABILITY))
    assert windows(1.0, 10.0) == pytest.approx(math.log1p(math.hypot(0.118, 0.028)))
    assert windows(0.5, 5) > windows(5, 5) > windows(50, 50)
