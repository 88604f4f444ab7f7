"""A bout: one case, all its implementations, side by side in one process."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from harness.layer.balance import balance
from harness.measure.executions import execution_refuses
from harness.measure.failures import Failure, explain
from harness.measure.gate import Examiner
from harness.measure.meters.energy import measure_energy
from harness.measure.meters.memory import measure_memory
from harness.measure.rounds import Entry, Stopped, rules_for, run_rounds, warm_up
from harness.measure.work import Traversed, work_of
from harness.records.derive import derive
from harness.records.record import Energy, ImplInfo, Record, Timing
from harness.records.stats import noise_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from harness.cases.case import Case
    from harness.cases.datasheet import Datasheet
    from harness.layer.contract import Implementation
    from harness.layer.inputs import Inputs
    from harness.layer.weights import Weights
    from harness.measure.clocks import Clock
    from harness.measure.gate import Admission
    from harness.measure.meters.nvml import Board
    from harness.records.environment import Ceilings

R = TypeVar("R")
CONTROL = "(A/A control)"


@dataclass
class Surroundings:
    """What a bout takes from the worker: the device's clock, ceilings and power meter, and how to say what comes next.

    ``note(implementation, stage)`` is called before anything an implementation could die in. ``timed`` is False when
    only agreement is asked for.
    """

    clock: Clock
    note: Callable[[str, str], None]
    environment_id: str
    ceilings: Ceilings | None = None
    datasheet: Datasheet | None = None
    cache_bytes: int = 0
    board: Board | None = None
    why_no_board: str = ""
    idle_watts: float | None = None
    energy_window_s: float = 5.0
    timed: bool = True
    measuring_ns: float = 0.0


@dataclass
class _Result:
    """What is known of one contestant so far."""

    implementation: Implementation
    admission: Admission | None = None
    failure: Failure | None = None
    timing: Timing | None = None
    parts: dict[str, Any] = field(default_factory=dict)


class Bout:
    """One case measured for all its implementations; ``run`` gives a record for each."""

    def __init__(self, case: Case, weights: Weights, around: Surroundings) -> None:
        self.case = case
        self.around = around
        self.examiner = Examiner(case, weights)
        self.weights = weights
        self.traversed = Traversed(case, around.cache_bytes)
        self._late: dict[str, tuple[int, Tensor]] = {}
        self._seen: dict[str, int] = {}
        self._picker = random.Random(case.case_id)  # noqa: S311 (which call is checked again, not a secret)

    def run(self, implementations: Sequence[Implementation], budget_ns: float) -> list[Record]:
        """Gate, time and meter everybody; nobody's failure is anybody else's."""
        start = self.around.clock.now_ns()
        results = [_Result(implementation) for implementation in implementations]
        for result in results:
            self._admit(result)
        if self.around.timed:
            spent = self.around.clock.now_ns() - start
            self._time([r for r in results if r.admission], max(budget_ns - spent, 0.25 * budget_ns))
            for result in results:
                self._check_late(result)
            for result in results:
                self._meter(result)
        bout = uuid.uuid4().hex[:8]
        return [self._record(result, bout) for result in results]

    def _attempt(self, result: _Result, stage: str, work: Callable[[], R]) -> R | None:
        """Do something an implementation takes part in; what it raises becomes its failure."""
        self.around.note(result.implementation.name, stage)
        try:
            return work()
        except BaseException as error:  # noqa: BLE001 (a contestant may raise anything, SystemExit included)
            self._fail(result, error)
            return None

    def _fail(self, result: _Result, error: BaseException) -> None:
        result.failure = explain(error, self.case)
        result.admission = result.timing = None

    def _admit(self, result: _Result) -> None:
        implementation, case = result.implementation, self.case
        reason = execution_refuses(case) or self._attempt(result, "asking", lambda: implementation.unsupported(case))
        if reason:
            result.failure = Failure("unsupported", reason)
        if not result.failure:
            result.admission = self._attempt(
                result, "gate", lambda: self.examiner.admit(implementation, self.around.clock)
            )

    def _time(self, results: list[_Result], budget_ns: float) -> None:
        """Warm up and run rounds; a contestant that fails on the way leaves, and the others start over."""
        while results := [result for result in results if result.admission]:
            try:
                self._run_rounds(results, budget_ns)
            except _Dropped as dropped:
                self._fail(next(r for r in results if r.implementation.name == dropped.name), dropped.error)
                continue
            return

    def _run_rounds(self, results: list[_Result], budget_ns: float) -> None:
        clock, rules = self.around.clock, rules_for(self.case.device, budget_ns, len(results) + 1)
        start = clock.now_ns()
        control = next((r for r in results if r.implementation.family == "dense"), results[0])
        entries = [self._entry(result) for result in results]
        twin = self._entry(control, CONTROL)
        warm_inputs = [self.examiner.draw(draw) for draw in (0, 1)]
        for entry in [*entries, twin]:
            self.around.note(entry.owner, "warm-up")
            self.around.measuring_ns += warm_up(entry, warm_inputs, clock, rules)
        rules = replace(rules, budget_ns=max(budget_ns - (clock.now_ns() - start), 0.25 * budget_ns))
        self._late.clear()
        stopped, spent = run_rounds(
            [*entries, twin], self._draw, clock, rules, self.case.traffic.seed, self.around.note, self._keep_for_later
        )
        self.around.measuring_ns += spent
        floor = noise_floor(*_paired(next(e for e in entries if e.name == control.implementation.name), twin))
        for result, entry in zip(results, entries, strict=True):
            result.timing = self._timing(result, entry, stopped)
            result.timing.noise_floor = floor
            if result is control:
                result.timing.control_ns = twin.samples_ns

    def _entry(self, result: _Result, name: str = "") -> Entry:
        assert result.admission
        contestant = result.admission.contestant
        own = contestant.name

        def bind(inputs: Inputs) -> Callable[[], tuple[Tensor, ...]]:
            call = contestant.call(inputs)

            def guarded() -> tuple[Tensor, ...]:
                try:
                    return call()
                except BaseException as error:  # noqa: BLE001 (a contestant may raise anything)
                    raise _Dropped(own, error) from None

            return guarded

        return Entry(name or own, own, bind)

    def _draw(self, number: int) -> Inputs:
        """Make the inputs of a timed call: draws 0 and 1 belong to the gate."""
        inputs = self.examiner.draw(number + 2)
        self.traversed.add(inputs.routing)
        return inputs

    def _keep_for_later(self, draw: int, name: str, result: tuple[Tensor, ...]) -> None:
        """Keep one timed call's answer of each contestant, every call equally likely (reservoir sampling)."""
        self._seen[name] = self._seen.get(name, 0) + 1
        if self._picker.random() < 1 / self._seen[name]:
            self._late[name] = draw + 2, result[0].detach().clone()

    def _check_late(self, result: _Result) -> None:
        """Judge the kept answer now that the clock has stopped: remembered and stale outputs are caught here."""
        name = result.implementation.name
        if not result.admission or name not in self._late:
            return
        draw, y = self._late.pop(name)
        agreement = self.examiner.judge(result.admission.contestant, draw, {"y": y})
        result.admission.agreement.checks += 1
        if not agreement.passed:
            agreement.rule = f"a timed call, checked after the clock stopped: {agreement.rule}"
            result.failure = Failure("disagrees", agreement.rule, agreement)
            result.timing = None

    def _timing(self, result: _Result, entry: Entry, stopped: Stopped) -> Timing:
        assert result.admission
        return Timing(
            clock="cuda_graph" if self.case.execution == "graph" else self.around.clock.name,
            cache=self.traversed.cache,
            samples_ns=entry.samples_ns,
            device_ns=entry.device_ns or None,
            rounds=entry.rounds,
            calls_per_sample=entry.calls,
            prepare_ns=result.admission.prepare_ns,
            first_call_ns=result.admission.first_call_ns,
            warmup_calls=entry.warmup_calls,
            warm=entry.warm,
            stopped=stopped,
        )

    def _meter(self, result: _Result) -> None:
        """Memory of one call alone, and the energy of a sustained window."""
        if not result.timing or not result.admission:
            return
        contestant, inputs = result.admission.contestant, self.examiner.draw(0)
        call = contestant.call(inputs)
        training = self.case.pass_ == "training"
        start = self.around.clock.now_ns()
        result.parts["memory"] = self._attempt(
            result,
            "memory",
            lambda: measure_memory(
                device=self.case.device,
                forward=call.forward_only if training else lambda: call()[0],
                backward=call.backward if training else None,
                weights_bytes=self.weights.nbytes,
            ),
        )
        result.parts["energy"] = self._attempt(result, "energy", lambda: self._energy(result, call))
        self.around.measuring_ns += self.around.clock.now_ns() - start

    def _energy(self, result: _Result, call: Callable[[], object]) -> Energy:
        assert result.timing
        if self.around.board is None:
            return Energy(status="unavailable", reason=self.around.why_no_board)
        return measure_energy(
            call,
            self.around.clock.synchronise,
            self.around.board,
            window_s=self.around.energy_window_s,
            idle_watts=self.around.idle_watts,
            estimate_s=min(result.timing.samples_ns) / 1e9,
        )

    def _record(self, result: _Result, bout: str) -> Record:
        implementation, failure = result.implementation, result.failure
        timed = result.timing is not None
        agreement = failure.agreement if failure else result.admission and result.admission.agreement
        record = Record(
            case=self.case,
            case_id=self.case.case_id,
            impl=describe(implementation),
            status=failure.status if failure else "ok",
            reason=failure.reason if failure else "",
            log_tail=failure.log_tail if failure else "",
            environment_id=self.around.environment_id,
            bout=bout,
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
            timing=result.timing,
            agreement=agreement or None,
            memory=result.parts.get("memory"),
            energy=result.parts.get("energy"),
            balance=balance(self.examiner.draw(0).routing, self.case.shape),
            work=work_of(self.case, self.traversed, self.around.ceilings, self.around.datasheet) if timed else None,
        )
        return derive(record, self.around.ceilings)


class _Dropped(Exception):
    """A contestant raised while it was timed."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(name)
        self.name = name
        self.error = error


def describe(implementation: Implementation) -> ImplInfo:
    """Say which implementation, as records do."""
    return ImplInfo(
        name=implementation.name,
        family=implementation.family,
        version=implementation.version,
        source_hash=implementation.source_hash,
        origin=implementation.origin,
        summary=implementation.summary,
    )


def _paired(first: Entry, second: Entry) -> tuple[list[float], list[float]]:
    """Samples of two entries taken in the same rounds."""
    a, b = (
        dict(zip(first.rounds, first.samples_ns, strict=True)),
        dict(zip(second.rounds, second.samples_ns, strict=True)),
    )
    shared = sorted(a.keys() & b.keys())
    return [a[r] for r in shared], [b[r] for r in shared]
