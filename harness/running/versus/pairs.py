"""Two sides in fresh pairs of workers, over all cases of a plan."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from harness.running import jobs
from harness.running.machine import measure_ceilings
from harness.running.pacing import bout_weights
from harness.running.runner import chunks
from harness.running.versus.rounds import CaseRounds
from harness.running.versus.workers import FallenError, WorkerPair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.cases.case import PlannedCase
    from harness.measure.wire import Ready
    from harness.records.environment import Ceilings
    from harness.running.blackbox import Announcement
    from harness.running.child import Limits
    from harness.running.plan import Plan
    from harness.running.runner import Progress
    from harness.running.versus.side import Side


@dataclass
class Pairs:
    """Measures the sides' plans; what comes of it lies with the sides.

    ``bouts`` are the ids that both sides' records of a case share. ``wall_s`` are the seconds that bouts took.
    """

    sides: tuple[Side, Side]
    plan: Plan
    limits: Limits
    progress: Progress
    ceilings: dict[str, Ceilings] = field(default_factory=dict)
    bouts: dict[str, str] = field(default_factory=dict)
    wall_s: float = 0.0
    _shortest_ns: dict[str, dict[str, float]] = field(default_factory=dict)
    _weights: dict[str, float] = field(default_factory=dict)
    _pair: int = 0
    _pairs: int = 0

    def run(self, pairs: int) -> None:
        """Measure the ceilings, then pair after pair; each has the same share of the budget.

        Raises
        ------
        ValueError
            when a side's modules come from elsewhere than they should.
        """
        self.bouts.update({one.case.case_id: uuid.uuid4().hex[:8] for one in self.plan.planned})
        self._pairs = pairs
        for device in self.plan.devices:
            dtypes = tuple(sorted({one.case.dtype for one in self.plan.planned if one.case.device == device}))
            self.ceilings[device] = measure_ceilings(device, dtypes, self.limits)
        weights = bout_weights(self.plan.planned, self.ceilings)
        self._weights = {one.case.case_id: weight for one, weight in zip(self.plan.planned, weights, strict=True)}
        for self._pair in range(pairs):
            self._run_pair((self.plan.budget_s - self.wall_s) / (pairs - self._pair))
            for side in self.sides:
                side.end_pair(self._pair)

    def _run_pair(self, budget_s: float) -> None:
        """Measure every case in workers that start now, one pair for each layer."""
        ends_s = self.wall_s + budget_s
        ahead = dict(self._weights)
        for chunk in chunks(self.plan.planned, one_worker=False):
            to_do = list(chunk)
            while to_do := [one for one in to_do if any(side.asked(one.case) for side in self.sides)]:
                try:
                    with WorkerPair(self._show) as pair:
                        self._start(pair, to_do)
                        while to_do:
                            share = ahead[to_do[0].case.case_id] / sum(ahead.values())
                            self._rounds(pair, to_do[0], max(0.0, ends_s - self.wall_s) * share)
                            del ahead[to_do.pop(0).case.case_id]
                except FallenError as fallen:
                    side = next(side for side in self.sides if side.name == fallen.side)
                    side.charge(fallen.death, to_do[0].case, self.limits)

    def _start(self, pair: WorkerPair, to_do: Sequence[PlannedCase]) -> None:
        """Start a worker for each side that has something to do; which starts first alternates."""
        order = self.sides if self._pair % 2 == 0 else self.sides[::-1]
        for side in order:
            planned = [asked for one in to_do if (asked := side.asked(one.case))]
            if planned:
                job = jobs.TurnsJob(
                    planned=planned,
                    environment_id=side.machine.environment.environment_id,
                    wire=-1,
                    metered=self._pair == 0,
                    ceilings=self.ceilings,
                    skip=side.skip,
                    homes=side.homes,
                )
                pair.start(side.name, job, self.limits, side.outfit)
        for name, ready in pair.ready().items():
            _refuse_strays(name, ready)

    def _rounds(self, pair: WorkerPair, one: PlannedCase, share_s: float) -> None:
        """Measure one case and keep its records."""
        start, case = time.monotonic(), one.case
        taking = [side for side in self.sides if side.asked(case)]
        if self._pair % 2:
            taking.reverse()
        rounds = CaseRounds(
            pair,
            case,
            share_s,
            self._shortest_ns.setdefault(case.case_id, {}),
            {name for side in self.sides for name, listed in side.machine.listed.items() if listed.family == "dense"},
            random.Random(f"{case.case_id} {self._pair}"),  # noqa: S311 (order of visits, not a secret)
        )
        rounds.run([pair.workers[side.name] for side in taking])
        for side in taking:
            outcome = pair.workers[side.name].outcome()
            side.keep(case, outcome)
            if outcome.ceilings:
                self.ceilings[case.device] = self.ceilings[case.device].raised_by(outcome.ceilings)
        self.wall_s += time.monotonic() - start

    def _show(self, side: str, entry: Announcement) -> None:
        stage = f"pair {self._pair + 1} of {self._pairs}, {side}: {entry.stage}"
        self.progress.doing(msgspec.structs.replace(entry, stage=stage))


def _refuse_strays(side: str, ready: Ready) -> None:
    for module, file in ready.strays.items():
        raise ValueError(
            f"--rev: {side}'s module {module} was imported from {file}: another copy goes before it; uninstall that"
        )
