"""One case between two workers: who is timed when, and when it is enough. A single worker is conducted likewise.

A turn is one implementation in one round: both sides take their samples of it one right after the other, and which goes
first is decided by lot. At any moment one worker at most has something to do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.measure.rounds import calls_for, rules_for
from harness.measure.wire import Admitted, Again, Begin, Draw, Drawn, Over, Stop, Took, Turn, Warm, WarmUp
from harness.running.duel import LostError

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Sequence

    from harness.cases.case import Case
    from harness.measure.rounds import Rules, Stopped
    from harness.measure.wire import Order
    from harness.running.duel import Corner, Duel

MIN_ROUNDS, MAX_ROUNDS = 7, 200
"""Rounds of a case in one pair of processes, whatever its share of the budget."""
LEAST_SHARE = 0.25
"""Of a case's share, which warm-up and rounds get however long the gate took."""


@dataclass(frozen=True)
class Line:
    """Somebody who is due in every round, or the A/A control, and the workers that have it."""

    owner: str
    corners: tuple[Corner, ...]
    control: bool = False


@dataclass
class Contest:
    """Conducts one case. ``share_s`` is its share of the budget.

    ``shortest_ns`` holds the shortest call of each implementation so far, on whichever side and in whichever pair: it
    says how many calls make a sample long enough, for both sides alike. ``baselines`` are the dense baselines' names:
    the A/A control is one of them where it can.
    """

    duel: Duel
    case: Case
    share_s: float
    shortest_ns: dict[str, float]
    baselines: Collection[str]
    lots: random.Random
    _left_s: float = field(default=0.0, init=False)
    _calls: dict[str, int] = field(default_factory=dict, init=False)

    def run(self, corners: Sequence[Corner]) -> None:
        """Have everybody pass the gate, then measure; whoever fails on the way is left out and the rest begin again.

        Raises
        ------
        FallenError
            when a worker dies.
        """
        gate_s = sum(self._admit(corner, Begin(self.case.case_id)) for corner in corners)
        self._left_s = max(self.share_s - gate_s, LEAST_SHARE * self.share_s)
        while standing := [corner for corner in corners if corner.admitted]:
            start = time.monotonic()
            try:
                stopped = self._measure(standing)
            except LostError as lost:
                if lost.out:
                    lost.corner.admitted = []
                for corner in standing:
                    if corner.admitted:
                        self._admit(corner, None if corner is lost.corner else Again())
                self._left_s = max(self._left_s - (time.monotonic() - start), LEAST_SHARE * self.share_s)
            else:
                for corner in standing:
                    self.duel.ask(corner, Stop(stopped), Over)
                return

    def _admit(self, corner: Corner, order: Order | None) -> float:
        """Learn whom a worker may time, and the seconds that finding out took."""
        corner.admitted = []
        try:
            told = self.duel.ask(corner, order, Admitted) if order else self.duel.hear(corner, Admitted)
        except LostError:
            return 0.0
        corner.admitted = told.names
        return told.spent_s

    def _measure(self, corners: Sequence[Corner]) -> Stopped:
        start = time.monotonic()
        entries = sum(len(corner.admitted) for corner in corners)
        rules = rules_for(self.case.device, self._left_s * 1e9, entries)
        self._settle_calls(corners, rules)
        lines = lines_of(corners, self.baselines)
        number = drawn = 0
        while True:
            drawn += self._round(corners, lines, number, drawn)
            number += 1
            if number >= MAX_ROUNDS:
                return "rounds"
            if number >= MIN_ROUNDS and time.monotonic() - start >= self._left_s:
                return "budget"

    def _settle_calls(self, corners: Sequence[Corner], rules: Rules) -> None:
        """Warm everybody up, and settle how many calls their samples have in this pair."""
        for corner in corners:
            told = self.duel.ask(corner, WarmUp(rules.warmup_ns), Warm)
            for name, call_ns in told.estimates_ns.items():
                self._learn(name, call_ns)
        self._calls = {name: calls_for(call_ns, rules) for name, call_ns in self.shortest_ns.items()}

    def _learn(self, name: str, call_ns: float) -> None:
        self.shortest_ns[name] = min(call_ns, self.shortest_ns.get(name, call_ns))

    def _round(self, corners: Sequence[Corner], lines: Sequence[Line], number: int, drawn: int) -> int:
        """Have every line take its turn, and return how many draws that took."""
        draws = max(self._calls[line.owner] for line in lines)
        for corner in corners:
            self.duel.ask(corner, Draw(drawn, draws), Drawn)
        for line in self.lots.sample(lines, len(lines)):
            turn = Turn(line.owner, number, self._calls[line.owner], line.control)
            for corner in self.lots.sample(line.corners, len(line.corners)):
                self._learn(line.owner, self.duel.ask(corner, turn, Took).ns)
        return draws


def lines_of(corners: Sequence[Corner], baselines: Collection[str]) -> list[Line]:
    """Return who is due: each implementation where it was admitted, and a control that both sides have if they can."""
    names = list(dict.fromkeys(name for corner in corners for name in corner.admitted))
    lines = [Line(name, tuple(corner for corner in corners if name in corner.admitted)) for name in names]
    common = [line for line in lines if len(line.corners) == len(corners)]
    if common:
        owner = next((line for line in common if line.owner in baselines), common[0])
        return [*lines, Line(owner.owner, owner.corners, control=True)]
    return [*lines, *(line for corner in corners for line in lines_of([corner], baselines) if line.control)]
