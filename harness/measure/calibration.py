"""Trials in the worker: short bouts of one implementation against itself, and against itself with slowdowns planted."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from harness.measure.bout import short_collections
from harness.measure.executions import execution_refuses, start_afresh
from harness.measure.failures import explain
from harness.measure.gate import Examiner
from harness.measure.neighbours import count_cpu, cpu_time
from harness.measure.planting import planter_for
from harness.measure.rounds import Entry, rules_for, run_rounds, warm_up
from harness.measure.surroundings import NOBODY
from harness.measure.timing import DroppedError, TimedSection
from harness.records.estimates import MIN_ROUNDS
from harness.records.trials import BASE, BASELINE, CONTROL, PLANTED_PERCENT, Line, Trial, planted_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from harness.cases.case import Case
    from harness.layer.contract import Implementation
    from harness.layer.weights import Weights
    from harness.measure.gate import Admission
    from harness.measure.rounds import Rules
    from harness.measure.surroundings import Surroundings

WARMUP_NS = 0.2e9
"""Of each implementation, once a worker."""
PACE_COPIES, PACE_ROUNDS = 4, 8
"""Of the base, before a trial's rounds: its call's time there is what slowdowns are shares of."""
LEAST_ROUNDS, PATIENCE = 140, 5
"""Rounds of a trial, should they take up to so many times as long as was asked: with a busy neighbour 45 rounds found
71 of 100 slowdowns of 5 %, 140 all."""


class RefusedError(Exception):
    """The implementation cannot be timed in this case; the message says why."""


class TrialSeries:
    """The trials of one worker. The gate is passed once, at the start."""

    def __init__(self, case: Case, weights: Weights, around: Surroundings, process: int) -> None:
        self.case = case
        self.around = around
        self.process = process
        self._examiner = Examiner(case, weights)
        self._admissions: dict[str, Admission] = {}
        self._warm: dict[str, Entry] = {}

    def run(
        self, base: Implementation, baseline: Implementation | None, first: int, count: int, trial_ns: float
    ) -> Iterator[Trial]:
        """Yield ``count`` trials of about ``trial_ns`` each; a dense baseline that cannot run the case is left out.

        Raises
        ------
        RefusedError
            when the base cannot run the case, does not agree with the oracle, or fails while it is timed.
        """
        with short_collections():
            start_afresh(self.case)
            lines = {BASE: self._admit(base)}
            if baseline and baseline.name != base.name:
                with contextlib.suppress(RefusedError):
                    lines[BASELINE] = self._admit(baseline)
            self._admissions = {admission.contestant.name: admission for admission in lines.values()}
            self._examiner.answers.forget()
            try:
                self._warm_up(lines)
                for number in range(first, first + count):
                    yield self._trial(number, trial_ns)
            except DroppedError as dropped:
                raise _refused(dropped.name, dropped.error) from None

    def _admit(self, implementation: Implementation) -> Admission:
        name = implementation.name
        self.around.note(name, "asking")
        try:
            reason = execution_refuses(self.case) or implementation.unsupported(self.case)
            reason = reason or implementation.untimed(self.case)
            admission = None if reason else self._pass_gate(implementation)
        except BaseException as error:  # noqa: BLE001 (an implementation may raise anything)
            raise _refused(name, error) from None
        if admission is None:
            raise RefusedError(f"{name}: unsupported: {reason}")
        return admission

    def _pass_gate(self, implementation: Implementation) -> Admission:
        around, name = self.around, implementation.name
        around.note(NOBODY, "oracle")
        self._examiner.answers.prepare(baseline=implementation.family == "dense")
        return self._examiner.admit(implementation, around.clock, lambda stage: around.note(name, stage))

    def _warm_up(self, lines: dict[str, Admission]) -> None:
        rules = replace(self._rules(LEAST_ROUNDS), warmup_ns=WARMUP_NS)
        section = self._section()
        for line, admission in lines.items():
            entry = section.entry(admission.contestant.name)
            self.around.note(entry.owner, "warm-up")
            warm_up(entry, [section.lend(draw) for draw in (0, 1)], self.around.clock, rules)
            self._warm[line] = entry

    def _trial(self, number: int, trial_ns: float) -> Trial:
        clock, before = self.around.clock, count_cpu()
        section = self._section()
        seed = self.case.traffic.seed + number  # another order of visits in every trial
        pace_ns = self._pace(section, seed)
        entries, lines = self._lines(section, pace_ns)
        round_ns = pace_ns * sum(entry.calls for entry in entries)
        fit = trial_ns / round_ns
        rounds = max(MIN_ROUNDS, int(fit), int(min(LEAST_ROUNDS, PATIENCE * fit)))
        rules = self._rules(rounds, max(PATIENCE * trial_ns, 2 * MIN_ROUNDS * round_ns))
        run_rounds(entries, section.draw, clock, rules, seed, self.around.note, section.seen)
        for entry in entries:
            lines[entry.name].samples_ns, lines[entry.name].rounds = entry.samples_ns, entry.rounds
        spent = cpu_time(before, count_cpu())
        return Trial(process=self.process, number=number, call_ns=pace_ns, lines=lines, cpu=spent)

    def _pace(self, section: TimedSection, seed: int) -> float:
        """Median time of base calls in rounds with others, since alone it would find its caches as it left them."""
        entries = [self._entry(section, BASE, f"pace {number}") for number in range(PACE_COPIES)]
        if BASELINE in self._warm:
            entries.append(self._entry(section, BASELINE, BASELINE))
        rules = self._rules(PACE_ROUNDS)
        run_rounds(entries, section.draw, self.around.clock, rules, seed, self.around.note, section.seen)
        return float(median(sample for entry in entries[:PACE_COPIES] for sample in entry.samples_ns))

    def _lines(self, section: TimedSection, call_ns: float) -> tuple[list[Entry], dict[str, Line]]:
        """Who takes part in a trial's rounds, and the lines that their samples will go to.

        A slowdown too small for the device to plant is left out.
        """
        planter = planter_for(self.case.device, self.around.clock)
        entries = [self._entry(section, BASE, BASE), self._entry(section, BASE, CONTROL)]
        if BASELINE in self._warm:
            entries.append(self._entry(section, BASELINE, BASELINE))
        lines = {entry.name: _line(entry) for entry in entries}
        for percent in PLANTED_PERCENT:
            planted_ns = percent / 100 * call_ns
            entry = self._entry(section, BASE, planted_name(percent))
            if percent:
                if planted_ns < planter.least_ns:
                    continue
                entry = replace(entry, bind=_slowed(entry.bind, planter.delay(planted_ns)))
            entries.append(entry)
            lines[entry.name] = _line(entry, percent, planted_ns)
        return entries, lines

    def _entry(self, section: TimedSection, like: str, name: str) -> Entry:
        """Enter somebody who is warm once more, under a name of its own."""
        warm = self._warm[like]
        entry = section.entry(warm.owner, name)
        entry.estimate_ns, entry.calls = warm.estimate_ns, warm.calls
        return entry

    def _section(self) -> TimedSection:
        return TimedSection(self._examiner, self.around, list(self._admissions.values()))

    def _rules(self, rounds: int, budget_ns: float = math.inf) -> Rules:
        """Rules of the device, but that a trial has so many rounds, or as many as fit into the budget.

        The budget has room for the least that is needed, so nobody sits out a round.
        """
        rules = rules_for(self.case.device, budget_ns, len(PLANTED_PERCENT) + 3)
        return replace(rules, min_rounds=min(rounds, MIN_ROUNDS), max_rounds=rounds, min_measured_ns=math.inf)


def _line(entry: Entry, percent: float | None = None, planted_ns: float = 0.0) -> Line:
    return Line(samples_ns=[], rounds=[], calls_per_sample=entry.calls, planted_percent=percent, planted_ns=planted_ns)


def _slowed(bind: Callable[[Any], Callable[[], Any]], delay: Callable[[], None]) -> Callable[[Any], Callable[[], Any]]:
    """Bind calls that take longer by a delay behind them."""

    def bind_slowed(inputs: Any) -> Callable[[], Any]:  # noqa: ANN401 (rounds know no tensors)
        call = bind(inputs)

        def slowed() -> Any:  # noqa: ANN401 (whatever the call returns)
            result = call()
            delay()
            return result

        return slowed

    return bind_slowed


def _refused(name: str, error: BaseException) -> RefusedError:
    failure = explain(error)
    return RefusedError(f"{name}: {failure.status}: {failure.reason}")
