"""Planted slowdowns: a spin takes what it should on the clock, a sleep counts the cycles that it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.measure import planting
from harness.measure.clocks import WallClock
from harness.measure.planting import LONG_CYCLES, SHORT_CYCLES, Sleeping, Spinning, planter_for


class Ticking:
    """A clock that goes on by so many nanoseconds whenever it is read."""

    name = "wall"

    def __init__(self, tick: int) -> None:
        self.now, self.tick = 0, tick

    def now_ns(self) -> int:
        self.now += self.tick
        return self.now


@pytest.mark.parametrize("nanoseconds", [300, 5_000, 40_000])
@pytest.mark.parametrize("tick", [1, 10, 100])
def test_a_spin_takes_its_time_to_the_tick(nanoseconds: int, tick: int) -> None:
    clock: Any = Ticking(tick)
    delay = Spinning(clock).delay(nanoseconds)
    before = clock.now
    delay()
    assert clock.now + tick - before == pytest.approx(nanoseconds, abs=tick)


def test_the_least_is_what_a_spin_of_nothing_takes() -> None:
    """It looks at the clock twice, and who times it once more."""
    clock: Any = Ticking(100)
    assert Spinning(clock).least_ns == 300


def test_a_spin_on_the_real_clock_ends_and_not_too_soon() -> None:
    clock = WallClock()
    delay = Spinning(clock).delay(200_000)
    start = clock.now_ns()
    delay()
    assert clock.now_ns() - start >= 150_000


def linear(fixed_ns: float, ghz: float) -> Any:
    return lambda _device, cycles: fixed_ns + cycles / ghz


def test_a_sleep_counts_the_cycles_its_time_takes() -> None:
    sleeping = Sleeping("cuda:0", linear(2_000.0, 1.5))
    assert sleeping.least_ns == pytest.approx(2_000.0)
    assert sleeping.cycles(12_000.0) == 15_000
    assert sleeping.cycles(0.0) == 1


def test_a_sleep_is_measured_at_two_lengths_and_one_slow_moment_changes_nothing() -> None:
    asked: list[int] = []

    def taken(_device: str, cycles: int) -> float:
        asked.append(cycles)
        return 1_000.0 + cycles + (1e6 if len(asked) == 2 else 0.0)

    assert Sleeping("cuda:0", taken).cycles(51_000.0) == 50_000
    assert set(asked) == {SHORT_CYCLES, LONG_CYCLES}


def test_a_delay_on_a_gpu_asks_it_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[int] = []
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append)
    delay = Sleeping("cuda:0", linear(0.0, 1.0)).delay(7_000.0)
    assert slept == []
    delay()
    assert slept == [7_000]


def test_sleeps_are_timed_by_the_device_s_events(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            said.append(f"record on {stream}")

        def synchronize(self) -> None:
            said.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 0.5 * (end is not self)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: said.append(str(cycles)))
    assert planting.sleep_ns("cuda:1", 99) == 0.5e6 / planting.SLEEPS
    record = "record on the stream of cuda:1"
    assert said == [record, *["99"] * planting.SLEEPS, record, "wait"]


def test_each_device_has_its_own_way() -> None:
    assert isinstance(planter_for("cpu", WallClock()), Spinning)


@pytest.mark.cuda
def test_a_real_gpu_sleeps_about_as_long_as_asked() -> None:
    sleeping = Sleeping("cuda:0")
    assert sleeping.least_ns < 100_000
    assert planting.sleep_ns("cuda:0", sleeping.cycles(1e6)) == pytest.approx(1e6, rel=0.5)
