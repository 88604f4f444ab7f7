"""A bout: one case, all its implementations, side by side in one process."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from harness.layer.balance import balance
from harness.measure.executions import execution_refuses, start_afresh
from harness.measure.failures import Failure, explain, free_unused
from harness.measure.gate import Examiner
from harness.measure.metering import (
    ENERGY_SHARE,
    MEMORY_CALLS,
    can_meter_energy,
    energy_window_s,
    meter_energy,
    meter_memory,
)
from harness.measure.neighbours import count_cpu, neighbours
from harness.measure.result import Result
from harness.measure.settings import kept_settings, read_settings, restore_settings
from harness.measure.surroundings import NOBODY
from harness.measure.timing import LEAST_SHARE, DroppedError, StartOverError, Timed, TimedSection
from harness.measure.work import work_of
from harness.records.record import Energy, Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.cases.case import Case
    from harness.layer.contract import Implementation
    from harness.layer.weights import Weights
    from harness.measure.surroundings import Surroundings
    from harness.records.record import Neighbours, Record

R = TypeVar("R")


class Bout:
    """One case measured for all its implementations; ``run`` gives a record for each."""

    def __init__(self, case: Case, weights: Weights, around: Surroundings) -> None:
        self.case = case
        self.around = around
        self.examiner = Examiner(case, weights)
        self._neighbours: Neighbours | None = None

    def run(self, implementations: Sequence[Implementation], budget_ns: float) -> list[Record]:
        """Gate, time and meter everybody within ``budget_ns``; nobody's failure is anybody else's."""
        with short_collections():
            return self._run(implementations, budget_ns)

    def _run(self, implementations: Sequence[Implementation], budget_ns: float) -> list[Record]:
        clock, start = self.around.clock, self.around.clock.now_ns()
        start_afresh(self.case)
        self.around.note(NOBODY, "inputs")
        load = balance(self.examiner.answers.draw(0).routing, self.case.shape)
        results = [Result(implementation) for implementation in implementations]
        for result in results:
            free_unused(self.case.device)
            self._admit(result)
        self.examiner.answers.forget()
        if self.around.timed:
            self._dismiss(results)
            left_ns = max(budget_ns - (clock.now_ns() - start), LEAST_SHARE * budget_ns)
            window_s = energy_window_s(self.around, left_ns, sum(1 for result in results if result.admission))
            self._time(results, left_ns * (1 - ENERGY_SHARE if can_meter_energy(self.around, window_s) else 1))
            for result in results:
                self._meter(result, window_s)
        bout = uuid.uuid4().hex[:8]
        return [result.record(self.case, self.around, bout, load, self._neighbours) for result in results]

    def _try(self, name: str, stage: str, work: Callable[[], R]) -> R | Failure:
        """Do something an implementation takes part in, or return what became of it.

        Whatever it raises, ``SystemExit`` included, is its failure. A device that was lost to it raises once more, and
        ends the worker: the parent charges who was announced last.
        """
        self.around.note(name, stage)
        try:
            return work()
        except BaseException as error:  # noqa: BLE001 (see above)
            failure = explain(error)
        try:
            self._recover()
        except BaseException:
            sys.stderr.write(failure.log_tail)  # the record's log should tell what broke it
            raise
        return failure

    def _recover(self) -> None:
        """Free what a failed call held, and see whether the device and torch's allocator are still of use."""
        gc.collect()
        free_unused(self.case.device)
        self.around.clock.synchronise()

    def _admit(self, result: Result) -> None:
        implementation, around = result.implementation, self.around
        with kept_settings():
            reason = execution_refuses(self.case) or self._try(
                result.name, "asking", lambda: implementation.unsupported(self.case)
            )
        if reason:
            result.fail(reason if isinstance(reason, Failure) else Failure("unsupported", str(reason)))
            return
        answers = self.examiner.answers
        known = self._try(NOBODY, "oracle", lambda: answers.prepare(baseline=implementation.family == "dense"))
        if isinstance(known, Failure):
            result.fail(_of_the_oracle(known))
            return
        note = functools.partial(around.note, result.name)
        admission = self._try(result.name, "gate", lambda: self.examiner.admit(implementation, around.clock, note))
        if isinstance(admission, Failure):
            result.fail(admission)
            return
        result.admit(admission)
        around.measuring_ns += admission.first_call_ns

    def _dismiss(self, results: list[Result]) -> None:
        """Let go who computes the layer right, but in a way whose time would mean nothing."""
        for result in results:
            if result.admission:
                ask = functools.partial(result.implementation.untimed, self.case)
                if reason := self._try(result.name, "asking", ask):
                    result.fail(reason if isinstance(reason, Failure) else Failure("unsupported", str(reason)))

    def _time(self, results: list[Result], budget_ns: float) -> None:
        """Time everybody who was admitted; a contestant that fails on the way leaves, and the others start over."""
        clock, start = self.around.clock, self.around.clock.now_ns()
        while admitted := {result.name: result for result in results if result.admission}:
            left_ns = max(budget_ns - (clock.now_ns() - start), LEAST_SHARE * budget_ns)
            admissions = [result.admission for result in admitted.values() if result.admission]
            before, settings = count_cpu(), read_settings()
            try:
                timed = TimedSection(self.examiner, self.around, admissions).run(left_ns, MEMORY_CALLS)
            except DroppedError as dropped:
                admitted[dropped.name].fail(explain(dropped.error))
            except StartOverError:
                pass
            else:
                if self.around.conduct is None:  # with turns to take, the other side's CPU time is no neighbour's
                    self._neighbours = neighbours(before, count_cpu(), self.around.board)
                self._settle(admitted, timed, restore_settings(settings))
                return
            restore_settings(settings)
            self._recover()

    def _settle(self, admitted: dict[str, Result], timed: Timed, settings: list[str]) -> None:
        """Check one timed answer of each, now that the clock has stopped: remembered and stale ones are caught here.

        ``settings`` of the whole process that somebody changed meanwhile, or weights, condemn everybody.
        """
        changed = self.examiner.changed_weights()
        if changed or settings:
            what = f"the layer's weights ({', '.join(changed)})" if changed else ", ".join(settings)
            when = f"while {', '.join(admitted)} were timed"
            reason = f"{what} changed {when}; find out by whom with --impl, one at a time"
            for result in admitted.values():
                result.fail(Failure("error", reason))
            return
        for result in admitted.values():
            assert result.admission
            contestant, kept = result.admission.contestant, timed.kept[result.name]
            standard = functools.partial(self.examiner.answers.standard, kept.draw, baseline=contestant.is_baseline)
            known = self._try(NOBODY, "oracle", standard)
            if isinstance(known, Failure):
                result.fail(_of_the_oracle(known))
                continue
            checked = self._try(
                result.name,
                "late check",
                functools.partial(self.examiner.check_timed, contestant, kept.draw, kept.outputs),
            )
            if isinstance(checked, Failure):
                result.fail(checked)
                continue
            result.admission.agreement.checks += checked.checks
            result.timing = timed.timings[result.name]
        self.examiner.answers.forget()
        timed_ok = [result for result in admitted.values() if result.timing]
        self._weigh(timed_ok, timed)
        if any(result.beats_its_floor for result in timed_ok) and self._second_opinion():
            self._weigh(timed_ok, timed)

    def _weigh(self, results: list[Result], timed: Timed) -> None:
        """Hold each contestant's calls against what the device can do."""
        for result in results:
            result.work = work_of(self.case, timed.traversed[result.name], self.around.ceilings, self.around.datasheet)

    def _second_opinion(self) -> bool:
        """Measure the ceilings again before anybody is condemned by them: they may have been taken in a busy moment."""
        around = self.around
        if around.ceilings is None or around.measure_again is None:
            return False
        again = self._try(NOBODY, "ceilings", around.measure_again)
        if isinstance(again, Failure):  # no room for it beside the contestants
            return False
        around.ceilings = around.ceilings.raised_by(again)
        around.measuring_ns += again.seconds * 1e9
        return True

    def _meter(self, result: Result, window_s: float) -> None:
        """Meter memory and energy; when that fails the time still stands."""
        if not self.around.metered or not result.timing or not result.admission:
            return
        contestant, inputs = result.admission.contestant, self.examiner.answers.draw(0)
        memory = self._try(result.name, "memory", lambda: meter_memory(contestant, inputs, self.around))
        if isinstance(memory, Failure):
            memory = Memory(status="unavailable", reason=memory.reason, weights_bytes=contestant.weights_bytes)
        call, estimate_s = contestant.call(inputs), min(result.timing.samples_ns) / 1e9
        energy = self._try(result.name, "energy", lambda: meter_energy(call, self.around, estimate_s, window_s))
        if isinstance(energy, Failure):
            energy = Energy(status="unavailable", reason=energy.reason)
        result.memory, result.energy = memory, energy


def _of_the_oracle(failure: Failure) -> Failure:
    return replace(failure, reason=f"computing the float64 oracle failed: {failure.reason}")


@contextlib.contextmanager
def short_collections() -> Iterator[None]:
    """Leave what is there already out of garbage collections, each of which would take a tenth of a second."""
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
