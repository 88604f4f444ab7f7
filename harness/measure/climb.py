"""Looking for a faster configuration: from the default to its best neighbour, and on from there.

Each step measures some neighbours of the best so far beside the default: what a candidate scores is its time over the
default's in the same rounds, so that steps can be held against each other. At the end the best meets the default once
more, in rounds that did not choose it: the best of many always looks better than it is.

Source: iterative improvement, in Hoos and Stützle, Stochastic Local Search, 2004.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from harness.records.rounds import log_ratios, samples_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.records.record import Record, Values

    Measure = Callable[[Sequence[Values], float], list[Record]]

ABREAST = 12
"""Candidates measured in one bout, beside the default."""
FINAL_SHARE = 0.25
"""Of the budget, for the last bout."""
STEP = 0.005
"""A neighbour that is faster by less than this share is not worth a step."""
CANDIDATE_S = 1.0
"""Budget of a bout for each that is in it: enough to tell a step."""
LEAST_FINAL_S = 1.0


@dataclass
class Climb:
    """One search in one case.

    ``candidates(base)`` returns a base and its neighbours (``Tunable.candidates``), ``measure(values, budget_s)`` the
    records of a bout of these values, in their order; ``now()`` is in seconds. ``start`` is where to begin, the default
    where it is None; ``avoid(values)`` says what must not be asked.
    """

    candidates: Callable[[Values | None], Sequence[Values]]
    measure: Measure
    now: Callable[[], float]
    start: Values | None = None
    avoid: Callable[[Values], bool] = lambda _: False
    default: Values = field(default_factory=dict)
    best: Values = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    scores: list[tuple[Values, float]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    whole: bool = False

    def run(self, budget_s: float) -> None:
        """Search until no neighbour is faster or the budget is spent, then measure the best beside the default."""
        begun = self.now()
        until = begun + (1 - FINAL_SHARE) * budget_s
        self.default = self.best = dict(self.candidates(None)[0])
        self._step(self._begin(), until)
        while not self.whole and self.now() < until:
            self._step(self._fresh(), until)
        if self.best != self.default:
            self.records = self.measure([self.default, self.best], max(begun + budget_s - self.now(), LEAST_FINAL_S))

    def _begin(self) -> list[Values]:
        """Return what is asked first: where to begin, unless that is the default or must not be asked."""
        if self.start and self.start != self.default and not self.avoid(self.start):
            return [self.start]
        return self._fresh()

    def _fresh(self) -> list[Values]:
        """Return the neighbours of the best that were not asked yet."""
        known = [self.default, *(values for values, _ in self.scores)]
        around = [dict(values) for values in self.candidates(self.best)]
        return [values for values in around if values not in known and not self.avoid(values)]

    def _step(self, fresh: Sequence[Values], until: float) -> None:
        """Measure the first of some candidates, and go to the fastest so far; with none left the search is whole."""
        if not fresh and self.records:
            self.whole = True
            return
        some = fresh[:ABREAST]
        self._ask(some, max(0.0, min(until - self.now(), CANDIDATE_S * (1 + len(some)))))
        self.whole = not self.records[0].timing  # without the default's time there is nothing to hold others against
        self._move()

    def _ask(self, some: Sequence[Values], budget_s: float) -> None:
        """Measure candidates beside the default and score them; what cannot be timed is the slowest there is."""
        self.records = self.measure([self.default, *some], budget_s)
        base, *others = self.records
        for values, record in zip(some, others, strict=True):
            if record.timing is None or record.status != "ok":
                self.failed[f"{record.status}: {record.reason}"] += 1
            self.scores.append((values, score(base, record)))

    def _move(self) -> None:
        """Go to the fastest so far, if it is faster by more than ``STEP``."""
        here = next((found for values, found in self.scores if values == self.best), 0.0)
        values, found = min(self.scores, key=lambda one: one[1], default=(self.best, here))
        if found < here - STEP:
            self.best = values


def score(default: Record, record: Record) -> float:
    """Median of log(time / default's time) over the rounds of one bout; infinite without a time or an agreement."""
    fit = all(one.status == "ok" and one.timing is not None for one in (default, record))
    if not fit:
        return math.inf
    assert default.timing is not None
    assert record.timing is not None
    ratios = log_ratios(samples_of(default.timing), samples_of(record.timing))
    shared = [ratio for of_process in ratios.values() for ratio in of_process]
    return median(shared) if shared else math.inf
