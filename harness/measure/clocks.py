"""Clocks: the only place where time is taken."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Sample:
    """One timed group of calls: wall and device time in nanoseconds, and what the last call returned."""

    wall_ns: int
    device_ns: float | None
    result: Any


class Clock(Protocol):
    """What a bout needs from a clock."""

    name: str

    def now_ns(self) -> int:
        """Monotonic time, for budgets."""
        ...

    def synchronise(self) -> None:
        """Wait until the device has done everything it was asked to."""
        ...

    def time(self, calls: Sequence[Callable[[], Any]]) -> Sample:
        """Run the calls, at least one, one after another and time them together; only the last result is kept."""
        ...


class WallClock:
    """``time.perf_counter_ns`` around calls that return when they are done: the CPU's clock."""

    name = "wall"

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        return time.perf_counter_ns()

    def synchronise(self) -> None:
        """Do nothing: a CPU call is done when it returns."""

    def time(self, calls: Sequence[Callable[[], Any]]) -> Sample:
        """Time the calls together."""
        *others, last = calls
        start = time.perf_counter_ns()
        for call in others:
            call()
        result = last()
        return Sample(time.perf_counter_ns() - start, None, result)


class CudaClock:
    """Wall time with the device synchronised on both sides, and CUDA events around the same calls.

    The wall time is what a user waits for, launch gaps included; the events give the device's own view.
    """

    name = "wall"

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        return time.perf_counter_ns()

    def synchronise(self) -> None:
        """Wait for every stream of the device, and so for late writers too."""
        torch.cuda.synchronize(self._device)

    def time(self, calls: Sequence[Callable[[], Any]]) -> Sample:
        """Time the calls together, from an idle device to an idle device."""
        *others, last = calls
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        stream = torch.cuda.current_stream(self._device)  # a bare record would take the current device's
        for event in (begin, end):
            event.record(stream)  # CUDA makes an event at its first use, which is no business of the time below
        self.synchronise()
        start = time.perf_counter_ns()
        begin.record(stream)
        for call in others:
            call()
        result = last()
        end.record(stream)
        self.synchronise()
        wall = time.perf_counter_ns() - start
        return Sample(wall, begin.elapsed_time(end) * 1e6, result)


def clock_for(device: str) -> Clock:
    """Return the clock of a device: ``cpu``, ``cuda`` or ``cuda:N``."""
    return WallClock() if device == "cpu" else CudaClock(device)
