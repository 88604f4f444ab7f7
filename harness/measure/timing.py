"""The timed part of a bout: warm-up, rounds, the A/A control, and what an implementation may not do meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.layer.oracle import PER_TOKEN
from harness.measure.contestant import ContractError, check_contract, check_own_memory
from harness.measure.gate import DisagreementError
from harness.measure.rounds import Entry, rules_for, run_rounds, warm_up
from harness.measure.spotcheck import Kept, SpotCheck
from harness.measure.tampering import versions
from harness.measure.work import Traversed
from harness.records.record import Agreement, Timing
from harness.records.stats import noise_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from harness.layer.inputs import Inputs
    from harness.measure.gate import Admission, Examiner
    from harness.measure.rounds import Rules, Stopped
    from harness.measure.surroundings import Surroundings

CONTROL = "(A/A control)"
FIRST_TIMED_DRAW = 2
"""Draws 0 and 1 belong to the gate."""
LEAST_SHARE = 0.25
"""Of the budget, which rounds get however long the warm-up took."""


class DroppedError(Exception):
    """A contestant failed while it was timed."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(name)
        self.name = name
        self.error = error


class StartOverError(Exception):
    """Another side of the same bout lost a contestant: this one's rounds have nothing to be held against."""


@dataclass(frozen=True)
class Lent:
    """Inputs of one timed call, and how often they had been written to before it."""

    inputs: Inputs
    versions: tuple[int, ...]

    def copy(self) -> Lent:
        """Return the same numbers in other memory: what somebody keeps about these tensors is of no use to another."""
        inputs = self.inputs.clone()
        return Lent(inputs, versions(inputs))


@dataclass(frozen=True)
class Timed:
    """What the timed part gave: by implementation its timing, the answer to check, and the work of its calls."""

    timings: dict[str, Timing]
    kept: dict[str, Kept]
    traversed: dict[str, Traversed]


class TimedSection:
    """One attempt at timing a bout's contestants side by side. Who is timed when is up to whoever conducts it.

    ``entries`` are the contestants' lines by name, ``control`` the line that a contestant is entered under once more.
    """

    def __init__(self, examiner: Examiner, around: Surroundings, admissions: Sequence[Admission]) -> None:
        self.examiner = examiner
        self.around = around
        self.admissions = {admission.contestant.name: admission for admission in admissions}
        self.entries = {name: self.entry(name) for name in self.admissions}
        self.control: Entry | None = None
        self._case = examiner.case
        self._traversed = Traversed(self._case, around.cache_bytes)
        self._spot = SpotCheck(self._case.case_id)

    def run(self, budget_ns: float, meter_calls: int) -> Timed:
        """Have it conducted. ``meter_calls`` more calls of each contestant are paid from the budget afterwards.

        Raises
        ------
        DroppedError
            naming the contestant that failed on the way, and what it raised.
        StartOverError
            when somebody failed on another side of the same bout.
        """
        conduct = self.around.conduct or conduct_rounds
        stopped = conduct(self, budget_ns, meter_calls)
        traversed = {name: self._work_of(admission) for name, admission in self.admissions.items()}
        timings = {name: self._timing(entry, traversed[name], stopped) for name, entry in self.entries.items()}
        if self.control:
            owner = self.entries[self.control.owner]
            floor = noise_floor(*paired(owner, self.control))
            for timing in timings.values():
                timing.noise_floor = floor
            timings[owner.name].control_ns = self.control.samples_ns
        return Timed(timings, self._spot.kept, traversed)

    def warm_up(self, rules: Rules) -> None:
        """Warm up everybody, one after the other."""
        inputs = self.practice()
        for entry in self.entries.values():
            self.around.note(entry.owner, "warm-up")
            self.around.measuring_ns += warm_up(entry, inputs, self.around.clock, rules)

    def practice(self) -> list[Lent]:
        """Make inputs for calls that are not timed: those of the gate once more."""
        return [self.lend(draw) for draw in range(FIRST_TIMED_DRAW)]

    def enter_control(self, owner: str) -> Entry:
        """Enter a contestant a second time."""
        entry = self.entries[owner]
        self.control = self.entry(owner, CONTROL)
        self.control.estimate_ns, self.control.calls = entry.estimate_ns, entry.calls
        return self.control

    def entry(self, owner: str, name: str = "") -> Entry:
        """Return a line for the rounds in which an admitted implementation runs."""
        contestant = self.admissions[owner].contestant

        def bind(lent: Lent) -> Callable[[], tuple[Tensor, ...]]:
            call = contestant.call(lent.inputs)

            def guarded() -> tuple[Tensor, ...]:
                try:
                    return call()
                except BaseException as error:  # noqa: BLE001 (a contestant may raise anything)
                    raise DroppedError(owner, error) from None

            return guarded

        return Entry(name or owner, owner, bind, self.admissions[owner].call_ns, lend=Lent.copy)

    def draw(self, number: int) -> Lent:
        """Make the inputs of a timed draw, and count its work."""
        lent = self.lend(number + FIRST_TIMED_DRAW)
        self._traversed.add(lent.inputs.routing)
        return lent

    def lend(self, draw: int) -> Lent:
        """Make the inputs of any draw, in memory of their own."""
        inputs = self.examiner.answers.fresh(draw)
        return Lent(inputs, versions(inputs))

    def seen(self, entry: Entry, draw: int, inputs: Sequence[Lent], result: tuple[Any, ...]) -> None:
        """Look at a timed call's result: inputs are as they were, it keeps the contract, and it may be kept.

        Raises
        ------
        DroppedError
            naming whoever broke the contract.
        """
        if any(versions(one.inputs) != one.versions for one in inputs):
            tampered = Agreement(passed=False, rule="a timed call changed its inputs")
            raise DroppedError(entry.owner, DisagreementError(tampered))
        y, last = result[0], inputs[-1].inputs
        try:
            check_contract(y, last.x)
            check_own_memory(y, last, self.examiner.weights)
        except ContractError as error:
            raise DroppedError(entry.owner, error) from None
        call = self.admissions[entry.owner].contestant.call(last)
        outputs = {name: tensor for name, tensor in call.outputs(result).items() if name in PER_TOKEN}
        self._spot.see(entry.owner, draw + FIRST_TIMED_DRAW, outputs)
        y.detach().fill_(math.nan)  # the next one may get this memory, and must not find the answer in it

    def _work_of(self, admission: Admission) -> Traversed:
        return self._traversed.of_baseline() if admission.contestant.is_baseline else self._traversed

    def _timing(self, entry: Entry, traversed: Traversed, stopped: Stopped) -> Timing:
        admission = self.admissions[entry.name]
        return Timing(
            clock="cuda_graph" if self._case.execution == "graph" else self.around.clock.name,
            cache=traversed.cache,
            samples_ns=entry.samples_ns,
            device_ns=entry.device_ns or None,
            rounds=entry.rounds,
            calls_per_sample=entry.calls,
            prepare_ns=admission.prepare_ns,
            first_call_ns=admission.first_call_ns,
            warmup_calls=entry.warmup_calls,
            warm=entry.warm,
            stopped=stopped,
        )


def conduct_rounds(section: TimedSection, budget_ns: float, meter_calls: int) -> Stopped:
    """Warm up, then run rounds until they are enough: how a bout is conducted that nobody else has a part in."""
    around = section.around
    device, seed = section.examiner.case.device, section.examiner.case.traffic.seed
    rules, start = rules_for(device, budget_ns, len(section.admissions)), around.clock.now_ns()
    section.warm_up(rules)
    twin = section.enter_control(control_owner(list(section.admissions.values())))
    later_ns = meter_calls * sum(entry.estimate_ns for entry in section.entries.values())
    reserved = around.clock.now_ns() - start + later_ns
    rules = replace(rules, budget_ns=max(budget_ns - reserved, LEAST_SHARE * budget_ns))
    lines = [*section.entries.values(), twin]
    stopped, spent = run_rounds(lines, section.draw, around.clock, rules, seed, around.note, section.seen)
    around.measuring_ns += spent
    return stopped


def control_owner(admissions: Sequence[Admission]) -> str:
    """Who is entered a second time: the dense baseline, or whoever comes first."""
    baselines = [admission for admission in admissions if admission.contestant.is_baseline]
    return (baselines or admissions)[0].contestant.name


def paired(first: Entry, second: Entry) -> tuple[list[float], list[float]]:
    """Return the samples of two entries that were taken in the same rounds."""
    a = dict(zip(first.rounds, first.samples_ns, strict=True))
    b = dict(zip(second.rounds, second.samples_ns, strict=True))
    shared = sorted(a.keys() & b.keys())
    return [a[r] for r in shared], [b[r] for r in shared]
