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
from harness.records.estimates import MIN_ROUNDS
from harness.running.versus.workers import LostError

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Sequence

    from harness.cases.case import Case
    from harness.measure.rounds import Rules, Stopped
    from harness.measure.wire import Order
    from harness.running.versus.workers import SideWorker, WorkerPair

MAX_ROUNDS = 200
"""Of a case in one pair of processes; ``MIN_ROUNDS`` at least, whatever its share of the budget."""
LEAST_SHARE = 0.25
"""Of a case's share, which warm-up and rounds get however long the gate took."""


@dataclass(frozen=True)
class Line:
    """Somebody who is due in every round, or the A/A control, and the workers that have it."""

    owner: str
    workers: tuple[SideWorker, ...]
    control: bool = False


@dataclass
class CaseRounds:
    """Conducts one case. ``share_s`` is its share of the budget.

    ``shortest_ns`` holds the shortest call of each implementation so far, on whichever side and in whichever pair: it
    says how many calls make a sample long enough, for both sides alike. ``baselines`` are the dense baselines' names:
    the A/A control is one of them where it can.
    """

    pair: WorkerPair
    case: Case
    share_s: float
    shortest_ns: dict[str, float]
    baselines: Collection[str]
    lots: random.Random
    _left_s: float = field(default=0.0, init=False)
    _calls: dict[str, int] = field(default_factory=dict, init=False)

    def run(self, workers: Sequence[SideWorker]) -> None:
        """Have everybody pass the gate, then measure; whoever fails on the way is left out and the rest begin again.

        Raises
        ------
        FallenError
            when a worker dies.
        """
        gate_s = sum(self._admit(worker, Begin(self.case.case_id)) for worker in workers)
        self._left_s = max(self.share_s - gate_s, LEAST_SHARE * self.share_s)
        while standing := [worker for worker in workers if worker.admitted]:
            start = time.monotonic()
            try:
                stopped = self._measure(standing)
            except LostError as lost:
                if lost.out:
                    lost.worker.admitted = []
                for worker in standing:
                    if worker.admitted:
                        self._admit(worker, None if worker is lost.worker else Again())
                self._left_s = max(self._left_s - (time.monotonic() - start), LEAST_SHARE * self.share_s)
            else:
                for worker in standing:
                    self.pair.ask(worker, Stop(stopped), Over)
                return

    def _admit(self, worker: SideWorker, order: Order | None) -> float:
        """Learn whom a worker may time, and the seconds that finding out took."""
        worker.admitted = []
        try:
            told = self.pair.ask(worker, order, Admitted) if order else self.pair.hear(worker, Admitted)
        except LostError:
            return 0.0
        worker.admitted = told.names
        return told.spent_s

    def _measure(self, workers: Sequence[SideWorker]) -> Stopped:
        start = time.monotonic()
        entries = sum(len(worker.admitted) for worker in workers)
        rules = rules_for(self.case.device, self._left_s * 1e9, entries)
        self._settle_calls(workers, rules)
        lines = lines_of(workers, self.baselines)
        number = drawn = 0
        while True:
            drawn += self._round(workers, lines, number, drawn)
            number += 1
            if number >= MAX_ROUNDS:
                return "rounds"
            if number >= MIN_ROUNDS and time.monotonic() - start >= self._left_s:
                return "budget"

    def _settle_calls(self, workers: Sequence[SideWorker], rules: Rules) -> None:
        """Warm everybody up, and settle how many calls their samples have in this pair."""
        for worker in workers:
            told = self.pair.ask(worker, WarmUp(rules.warmup_ns), Warm)
            for name, call_ns in told.estimates_ns.items():
                self._learn(name, call_ns)
        self._calls = {name: calls_for(call_ns, rules) for name, call_ns in self.shortest_ns.items()}

    def _learn(self, name: str, call_ns: float) -> None:
        self.shortest_ns[name] = min(call_ns, self.shortest_ns.get(name, call_ns))

    def _round(self, workers: Sequence[SideWorker], lines: Sequence[Line], number: int, drawn: int) -> int:
        """Have every line take its turn, and return how many draws that took."""
        draws = max(self._calls[line.owner] for line in lines)
        for worker in workers:
            self.pair.ask(worker, Draw(drawn, draws), Drawn)
        for line in self.lots.sample(lines, len(lines)):
            turn = Turn(line.owner, number, self._calls[line.owner], line.control)
            for worker in self.lots.sample(line.workers, len(line.workers)):
                self._learn(line.owner, self.pair.ask(worker, turn, Took).ns)
        return draws


def lines_of(workers: Sequence[SideWorker], baselines: Collection[str]) -> list[Line]:
    """Return who is due: each implementation where it was admitted, and a control that both sides have if they can."""
    names = list(dict.fromkeys(name for worker in workers for name in worker.admitted))
    lines = [Line(name, tuple(worker for worker in workers if name in worker.admitted)) for name in names]
    common = [line for line in lines if len(line.workers) == len(workers)]
    if common:
        owner = next((line for line in common if line.owner in baselines), common[0])
        return [*lines, Line(owner.owner, owner.workers, control=True)]
    return [*lines, *(line for worker in workers for line in lines_of([worker], baselines) if line.control)]
