"""Rounds conducted from another process, so that two workers can take turns: the worker's side."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.measure.rounds import rules_for
from harness.measure.surroundings import NOBODY
from harness.measure.timing import DroppedError, StartOverError
from harness.measure.wire import Admitted, Again, Begin, Draw, Drawn, Dropped, Stop, Took, Turn, Warm, WarmUp

if TYPE_CHECKING:
    from harness.measure.rounds import Stopped
    from harness.measure.timing import Lent, TimedSection
    from harness.measure.wire import Wire


class TurnTaker:
    """Conducts timed sections as it is told over the wire; between two orders it blocks, and takes nobody's time."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._begun_s = time.perf_counter()

    def next_case(self) -> str | None:
        """Wait for the next case, and return its id; None when the conductor has hung up."""
        try:
            order = self.wire.receive()
        except EOFError:
            return None
        if isinstance(order, Begin):
            return order.case_id
        raise RuntimeError(f"{order} where a case was due")

    def has_layer(self) -> None:
        """Count a case's time from here on: the layer is built."""
        self._begun_s = time.perf_counter()

    def __call__(self, section: TimedSection, _budget_ns: float, _meter_calls: int) -> Stopped:
        """Serve one section, as ``Surroundings.conduct`` does.

        Raises
        ------
        DroppedError
            naming the contestant that failed; the conductor knows.
        StartOverError
            when the conductor says so.
        """
        section.around.note(NOBODY, "ready for rounds")
        self.wire.send(Admitted(list(section.admissions), time.perf_counter() - self._begun_s))
        try:
            return _Service(section, self.wire).run()
        except DroppedError as dropped:
            self.wire.send(Dropped(dropped.name))
            raise


class _Service:
    """One section's orders. ``_fresh`` are the inputs of ``_round``, ``_last`` the number of the last of them."""

    def __init__(self, section: TimedSection, wire: Wire) -> None:
        self._section = section
        self._wire = wire
        self._practice = section.practice()
        self._fresh: list[Lent] = []
        self._last = self._round = 0

    def run(self) -> Stopped:
        while True:
            match self._wire.receive():
                case Turn() as order:
                    reply: Took | Drawn | Warm = Took(self._turn(order))
                case Draw() as order:
                    reply = self._draw(order)
                case WarmUp() as order:
                    reply = self._warm_up(order)
                case Stop(stopped):
                    return stopped
                case Again():
                    raise StartOverError
                case other:
                    raise RuntimeError(f"{other} amidst rounds")
            self._section.around.note(NOBODY, f"round {self._round}")  # whatever happens now is not who had the turn
            self._wire.send(reply)

    def _warm_up(self, order: WarmUp) -> Warm:
        device = self._section.examiner.case.device
        self._section.warm_up(replace(rules_for(device, 0.0, 1), warmup_ns=order.warmup_ns))
        return Warm({name: entry.estimate_ns for name, entry in self._section.entries.items()})

    def _draw(self, order: Draw) -> Drawn:
        self._fresh.clear()  # the old inputs go before the new ones come
        self._fresh += [self._section.draw(order.first + i) for i in range(order.count)]
        self._last = order.first + order.count - 1
        return Drawn()

    def _turn(self, order: Turn) -> float:
        """Call once for the caches' and the sleeping threads' sake, then take the sample; return ns of one call."""
        section, around = self._section, self._section.around
        entry = section.entries[order.owner]
        if order.control:
            entry = section.control or section.enter_control(order.owner)
        entry.calls, self._round = order.calls, order.round
        around.note(order.owner, f"round {order.round}")
        start = around.clock.now_ns()
        entry.bind(self._practice[order.round % len(self._practice)])()
        around.clock.synchronise()
        around.measuring_ns += around.clock.now_ns() - start
        inputs = [entry.lend(one) for one in self._fresh[-order.calls :]]
        sample = entry.take(order.round, inputs, around.clock)
        around.measuring_ns += sample.wall_ns
        section.seen(entry, self._last, inputs, sample.result)
        return entry.samples_ns[-1]
