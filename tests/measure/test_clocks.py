"""Clocks: what is inside the time and what is not, with CUDA played by hand."""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest
import torch

from harness.measure.clocks import CudaClock, WallClock, clock_for


def test_each_device_has_its_clock() -> None:
    assert isinstance(clock_for("cpu"), WallClock)
    assert isinstance(clock_for("cuda:1"), CudaClock)


def test_the_wall_clock_counts_all_calls_and_gives_the_last_result(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100, 175])
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(now))
    done: list[int] = []

    def call(number: int) -> int:
        done.append(number)
        return number

    sample = WallClock().time([functools.partial(call, number) for number in range(3)])
    assert (sample.wall_ns, sample.device_ns, sample.result, done) == (75, None, 2, [0, 1, 2])


def test_time_goes_forward() -> None:
    clock = WallClock()
    assert clock.now_ns() <= clock.now_ns()
    assert clock.time([lambda: None]).wall_ns >= 0


def test_results_but_the_last_are_let_go() -> None:
    """Held, they would take memory from the calls after them: the gradients of a layer are as large as the layer."""
    alive = 0

    class Result:
        def __init__(self) -> None:
            nonlocal alive
            alive += 1
            assert alive == 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    WallClock().time([Result] * 5)


class FakeEvent:
    def __init__(self, log: list[Any], enable_timing: bool) -> None:
        assert enable_timing
        self.log = log

    def record(self, stream: str) -> None:
        self.log.append(("record", stream))

    def elapsed_time(self, _end: FakeEvent) -> float:
        return 0.25


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of CUDA and of the host's clock, in order."""
    log: list[Any] = []
    ticks = iter(range(0, 10_000, 1000))

    def tick() -> int:
        log.append("host clock")
        return next(ticks)

    monkeypatch.setattr(time, "perf_counter_ns", tick)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(("synchronise", str(device))))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: FakeEvent(log, enable_timing))
    return log


def test_the_cuda_clock_runs_from_idle_to_idle_on_its_own_device(log: list[Any]) -> None:
    def call() -> str:
        log.append("call")
        return "y"

    sample = CudaClock("cuda:1").time([call, call])
    assert log == [
        ("record", "stream of cuda:1"),  # both events come into being outside the time
        ("record", "stream of cuda:1"),
        ("synchronise", "cuda:1"),
        "host clock",
        ("record", "stream of cuda:1"),
        "call",
        "call",
        ("record", "stream of cuda:1"),
        ("synchronise", "cuda:1"),
        "host clock",
    ]
    assert (sample.wall_ns, sample.device_ns, sample.result) == (1000, 250_000.0, "y")


def test_waiting_waits_for_the_whole_device(log: list[Any]) -> None:
    CudaClock("cuda:3").synchronise()
    assert log == [("synchronise", "cuda:3")]


@pytest.mark.cuda
def test_the_events_and_the_host_agree_on_a_long_kernel() -> None:
    clock, x = clock_for("cuda:0"), torch.randn(4096, 4096, device="cuda")
    clock.time([lambda: x @ x])
    sample = clock.time([lambda: x @ x] * 20)
    assert sample.device_ns is not None
    assert 0.5 * sample.wall_ns < sample.device_ns <= sample.wall_ns
