"""Known slowdowns, to be planted behind a call: a spin on the CPU, a sleeping kernel on a GPU."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.measure.clocks import Clock

TRIES, TRIED_NS = 100, 10_000
"""Spins that are tried out first."""
REPEATS = 5
SLEEPS = 20
"""Kernels between two events."""
SHORT_CYCLES, LONG_CYCLES = 1_000, 101_000


class Planter(Protocol):
    """Makes delays of a known length; ``least_ns`` is the shortest it can."""

    least_ns: float

    def delay(self, nanoseconds: float) -> Callable[[], None]:
        """Return what takes so long when it is called, ``least_ns`` at least."""
        ...


class Spinning:
    """Delays that read the clock until it is time.

    What a delay takes beyond its spin, for being called and for the last look at the clock, is measured and left off.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beyond_ns = 0.0
        self.least_ns = self._taken_ns(0.0)
        self._beyond_ns = self._taken_ns(TRIED_NS) - TRIED_NS

    def delay(self, nanoseconds: float) -> Callable[[], None]:
        """Spin, so that calling takes so long in all."""
        spin_ns, now_ns = max(0, round(nanoseconds - self._beyond_ns)), self._clock.now_ns

        def spin() -> None:
            until = now_ns() + spin_ns
            while now_ns() < until:
                pass

        return spin

    def _taken_ns(self, nanoseconds: float) -> float:
        delay, times = self.delay(nanoseconds), []
        for _ in range(TRIES):
            start = self._clock.now_ns()
            delay()
            times.append(self._clock.now_ns() - start)
        return float(median(times))


class Sleeping:
    """Delays on a CUDA device: a kernel that counts cycles, on the stream of the call before it.

    Its length in nanoseconds is ``least_ns + cycles / cycles_per_ns``, measured by ``time_sleeps``; the device's clock
    moves, so make a new one for every trial.
    """

    def __init__(self, device: str, time_sleeps: Callable[[str, int], float] | None = None) -> None:
        taken = time_sleeps or sleep_ns
        short, long = (median(taken(device, cycles) for _ in range(REPEATS)) for cycles in (SHORT_CYCLES, LONG_CYCLES))
        ns_per_cycle = (long - short) / (LONG_CYCLES - SHORT_CYCLES)
        self._cycles_per_ns = 1 / ns_per_cycle
        self.least_ns = max(0.0, short - SHORT_CYCLES * ns_per_cycle)

    def cycles(self, nanoseconds: float) -> int:
        """Cycles to count for a delay of so long."""
        return max(1, round((nanoseconds - self.least_ns) * self._cycles_per_ns))

    def delay(self, nanoseconds: float) -> Callable[[], None]:
        """Have the device count so long; the host does not wait."""
        cycles = self.cycles(nanoseconds)
        return lambda: torch.cuda._sleep(cycles)  # noqa: SLF001 (torch has no other name)


def sleep_ns(device: str, cycles: int) -> float:
    """Nanoseconds that one of several sleeps of so many cycles takes on a CUDA device, by its events."""
    stream = torch.cuda.current_stream(device)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(stream)
    for _ in range(SLEEPS):
        torch.cuda._sleep(cycles)  # noqa: SLF001 (torch has no other name)
    end.record(stream)
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e6 / SLEEPS


def planter_for(device: str, clock: Clock) -> Planter:
    """Return what makes delays on a device: ``cpu``, ``cuda`` or ``cuda:N``."""
    return Spinning(clock) if device == "cpu" else Sleeping(device)
