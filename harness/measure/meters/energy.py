"""Energy of one call: the board's total-energy counter read around a sustained window of calls.

The counter ticks about every 100 ms, so both ends of the window are placed on a tick, and the window is long: with both
edges aligned a window of 5 s is good to about 2 %. Inside it nothing synchronises. The absolute error of such counters
is 5 to 13 % (Yang et al., "Part-time Power Measurements", SC'24), the same for everything measured on one board: ratios
on one board are trustworthy, joules of different boards are not. Figures are gross, for the whole board; the idle power
between the last call and the next tick is inside.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from harness.cases.shape import require
from harness.measure.meters.nvml import NvmlUnavailable
from harness.records.record import Energy

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.measure.meters.nvml import Board

METHOD = "nvml total energy, ticks aligned"
WINDOW_S = 5.0
SHORTEST_WINDOW_S = 1.0
WARM_UP_S = 2.0
TICK_S = 0.1
POLL_S = 0.005
TICK_TIMEOUT_S = 1.0
CHUNKS = 20
LEAD_CHUNKS = 4
OVERRUN = 2.0
POWER_TOLERANCE = 0.25
"""Counter and sampled power may differ by this share before the counter is distrusted."""


@dataclass(frozen=True)
class HostClock:
    """Where seconds come from and how they are waited for; tests put a fake in its place."""

    now_s: Callable[[], float] = time.perf_counter
    sleep_s: Callable[[float], None] = time.sleep


class _Tick(NamedTuple):
    """A moment at which the counter changed, or at which waiting for that was given up."""

    at_s: float
    millijoules: int
    moved: bool


@dataclass
class _Watch:
    """What the board said while the window ran."""

    board: Board
    clocks_mhz: list[int] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Read clock, power and event reasons once; a board at work is not called idle."""
        clock, power = self.board.sm_clock_mhz(), self.board.power_watts()
        self.clocks_mhz += [] if clock is None else [clock]
        self.watts += [] if power is None else [power]
        seen = self.board.event_reasons() or []
        self.reasons += [word for word in seen if word not in self.reasons and word != "gpu_idle"]


def measure_energy(
    call: Callable[[], object],
    synchronise: Callable[[], None],
    board: Board | None,
    *,
    estimate_s: float,
    idle_watts: float | None = None,
    why_not: str = "",
    window_s: float = WINDOW_S,
    clock: HostClock = HostClock(),
) -> Energy:
    """Energy of ``call`` over a window of at least ``window_s`` seconds.

    ``estimate_s`` is about how long one call takes; warming up corrects it, and the count of calls follows from it.
    ``why_not`` says why there is no board. Trouble with NVML never raises: it becomes the status ``unavailable`` or
    ``unreliable`` and a reason. What ``call`` raises is passed on.
    """
    require(estimate_s > 0, "estimate_s", estimate_s, "a number of seconds above 0")
    require(window_s > 0, "window_s", window_s, "a number of seconds above 0")
    if board is None:
        return Energy(status="unavailable", reason=why_not or "no energy counter: the device is not an NVIDIA GPU")
    try:
        if board.mig:
            return Energy(
                status="unavailable",
                reason="MIG is on: the counter is the whole board's. Turn MIG off to measure energy",
            )
        energy = _measure(call, synchronise, board, estimate_s, window_s, clock)
    except NvmlUnavailable as error:
        return Energy(status="unavailable", reason=error.reason, method=METHOD)
    energy.idle_watts = idle_watts
    return energy


def idle_watts(board: Board, seconds: float = WINDOW_S, clock: HostClock = HostClock()) -> float | None:
    """Mean power over ``seconds`` with nothing running but a CUDA context; None when the counter stands still."""
    try:
        start = _next_tick(board, clock)
        clock.sleep_s(seconds)
        stop = _next_tick(board, clock)
    except NvmlUnavailable:
        return None
    moved = start.moved and stop.moved and stop.millijoules > start.millijoules
    return (stop.millijoules - start.millijoules) / 1e3 / (stop.at_s - start.at_s) if moved else None


def _measure(
    call: Callable[[], object],
    synchronise: Callable[[], None],
    board: Board,
    estimate_s: float,
    window_s: float,
    clock: HostClock,
) -> Energy:
    """Warm up, align, run, align, read."""
    call_s = _warm_up(call, synchronise, estimate_s, min(WARM_UP_S, window_s), clock)
    watch = _Watch(board)
    cold_c = board.temperature_c()
    start = _next_tick(board, clock)
    calls = _issue(call, math.ceil(window_s / call_s), window_s, clock, watch.look)
    synchronise()
    stop = _next_tick(board, clock)
    hot_c = board.temperature_c()

    energy = Energy(
        status="ok",
        method=METHOD,
        window_s=stop.at_s - start.at_s,
        calls=calls,
        joules=(stop.millijoules - start.millijoules) / 1e3,
        temperature_c=None if cold_c is None or hot_c is None else (cold_c, hot_c),
        sm_clock_mhz=(min(watch.clocks_mhz), max(watch.clocks_mhz)) if watch.clocks_mhz else None,
        power_limit_watts=board.power_limit_watts,
        throttle_reasons=watch.reasons,
    )
    return _judge(energy, start, stop, watch)


def _warm_up(
    call: Callable[[], object], synchronise: Callable[[], None], estimate_s: float, planned_s: float, clock: HostClock
) -> float:
    """Keep the device busy for a while and return the seconds of one call, queued one behind the other."""
    started = clock.now_s()
    issued = 0
    for _ in range(math.ceil(planned_s / estimate_s)):
        call()
        issued += 1
        if clock.now_s() - started > OVERRUN * planned_s:
            break
    synchronise()
    return (clock.now_s() - started) / issued


def _issue(call: Callable[[], object], calls: int, planned_s: float, clock: HostClock, look: Callable[[], None]) -> int:
    """Issue calls in chunks without synchronising; return how many.

    The count is settled beforehand. Between chunks the host looks at the board, and waits until it is at most
    ``LEAD_CHUNKS`` of ``CHUNKS`` ahead of the plan: the queue stays short and is never empty. Calls that turn out much
    slower than estimated end the loop early.
    """
    started = clock.now_s()
    issued = 0
    for chunk in range(1, CHUNKS + 1):
        target = math.ceil(calls * chunk / CHUNKS)
        for _ in range(target - issued):
            call()
        issued = target
        look()
        elapsed = clock.now_s() - started
        if elapsed > OVERRUN * planned_s:
            break
        ahead_s = planned_s * (chunk - LEAD_CHUNKS) / CHUNKS - elapsed
        if ahead_s > 0:
            clock.sleep_s(ahead_s)
    return issued


def _next_tick(board: Board, clock: HostClock) -> _Tick:
    """Wait until the counter changes, a second at most."""
    before = board.total_energy_mj()
    deadline = clock.now_s() + TICK_TIMEOUT_S
    while clock.now_s() < deadline:
        clock.sleep_s(POLL_S)
        now = board.total_energy_mj()
        if now != before:
            return _Tick(clock.now_s(), now, moved=True)
    return _Tick(clock.now_s(), before, moved=False)


def _judge(energy: Energy, start: _Tick, stop: _Tick, watch: _Watch) -> Energy:
    """Set the status and its reason. A counter that shows nothing yields no joules, never 0."""
    assert energy.joules is not None
    assert energy.window_s is not None
    doubts = []
    if not (start.moved and stop.moved):
        doubts.append(f"the energy counter did not change within {TICK_TIMEOUT_S:g} s, though a GPU always draws power")
    if energy.joules <= 0:
        doubts.append(f"the counter showed {energy.joules:g} J for {energy.window_s:.2f} s of work")
    elif watch.watts:
        sampled = sum(watch.watts) / len(watch.watts)
        counted = energy.joules / energy.window_s
        if abs(counted - sampled) > POWER_TOLERANCE * sampled:
            doubts.append(f"the counter says {counted:.0f} W, {len(watch.watts)} power readings say {sampled:.0f} W")
    if energy.window_s < SHORTEST_WINDOW_S:
        share = TICK_S / energy.window_s
        doubts.append(f"a window of {energy.window_s:.2f} s may be off by {share:.0%}: the counter ticks every 100 ms")
    if energy.joules <= 0:
        energy.joules = None
    if doubts:
        energy.status, energy.reason = "unreliable", "; ".join(doubts)
    return energy
