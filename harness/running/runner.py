"""The parent: sends chunks of a plan to workers and sees that every (case, implementation) gets its one record.

Never imports torch, so that no kernel can take it down.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import msgspec

from harness.records.record import ImplInfo, Record
from harness.running import jobs
from harness.running.child import KILLS_FORGIVEN, Child, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from harness.cases.case import Case, PlannedCase
    from harness.records.environment import Ceilings
    from harness.records.record import Status
    from harness.running.blackbox import Entry
    from harness.running.child import Death


class Progress(Protocol):
    """What the runner tells whoever shows a progress bar."""

    def doing(self, entry: Entry) -> None:
        """Show what the worker announced last; called several times a second."""
        ...

    def done(self, records: Sequence[Record]) -> None:
        """Show that a bout, or the part of it that is lost, is over."""
        ...


@dataclass
class Course:
    """What stays the same over a run, and its tally of seconds. ``skip`` are modules no worker may import, and why."""

    environment_id: str
    listed: dict[str, jobs.Listed]
    limits: Limits = field(default_factory=Limits)
    ceilings: dict[str, Ceilings] = field(default_factory=dict)
    skip: dict[str, str] = field(default_factory=dict)
    timed: bool = True
    one_worker: bool = False
    measuring_s: float = 0.0
    wall_s: float = 0.0


class Runner:
    """Measures planned cases and hands each record to ``keep`` as soon as it is there."""

    def __init__(self, course: Course, keep: Callable[[list[Record]], object], progress: Progress) -> None:
        self.course = course
        self._keep = keep
        self._progress = progress
        self._kills: Counter[tuple[str, str]] = Counter()
        self._finished: set[str] = set()
        self._spent_s = 0.0

    def run(self, planned: Sequence[PlannedCase], budget_s: float) -> None:
        """Measure everything, sharing the budget (seconds of bouts) evenly over what is left.

        ``planned`` names the implementations of each case that have no record yet. Cases that share a layer share a
        worker, one layer after another. Time lost to an implementation that died is not taken from the others.
        """
        for chunk in chunks(planned, one_worker=self.course.one_worker):
            left = sum(1 for one in planned if one.case.case_id not in self._finished)
            self._run_chunk(chunk, max(0.0, budget_s - self._spent_s) * len(chunk) / left)

    def _run_chunk(self, chunk: list[PlannedCase], budget_s: float) -> None:
        """Send a chunk to workers until every implementation of every case has its record."""
        spent = self._spent_s
        while chunk:
            job = jobs.BoutsJob(
                planned=chunk,
                environment_id=self.course.environment_id,
                budget_s=max(0.0, budget_s - (self._spent_s - spent)),
                timed=self.course.timed,
                ceilings=self.course.ceilings,
                skip=self.course.skip,
            )
            watch = _Watch(self, chunk)
            death = Child(job, self.course.limits).run(watch.heard, self._progress.doing)
            watch.stop()
            chunk = [one for one in chunk if one.case.case_id not in self._finished]
            if death and chunk:
                chunk = self._after(death, chunk)

    def accept(self, outcome: jobs.BoutOutcome, planned: PlannedCase, broken: dict[str, str]) -> None:
        """Keep a finished bout; what was planned and is not in it was not there in the worker, and its record says so."""
        self._finished.add(outcome.case_id)
        self._spent_s += outcome.wall_s
        self.course.measuring_s += outcome.measuring_s
        records = list(outcome.records)
        measured = {record.impl.name for record in records}
        for name in _names(planned):
            if name not in measured:
                records.append(self._failure(planned.case, name, "error", self._why_absent(name, broken)))
        self._keep(records)
        self._progress.done(records)

    def _after(self, death: Death, chunk: list[PlannedCase]) -> list[PlannedCase]:
        """Charge whoever was running and return what is still to be measured."""
        last = death.last
        current = next((one for one in chunk if one.case.case_id == last.case_id), chunk[0])
        if death.killed_from_outside:
            self._kills[current.case.case_id, last.impl] += 1
            if self._kills[current.case.case_id, last.impl] < KILLS_FORGIVEN:
                return chunk
        elif last.stage == "import" and last.impl not in self.course.skip:
            self.course.skip[last.impl] = death.reason(self.course.limits)
            return chunk
        names = _names(current)
        charged = [last.impl] if last.case_id == current.case.case_id and last.impl in names else names
        self._charge(current.case, charged, death)
        rest = tuple(name for name in names if name not in charged)
        others = [one for one in chunk if one is not current]
        if not rest:
            self._finished.add(current.case.case_id)
            return others
        return [msgspec.structs.replace(current, implementations=rest), *others]

    def _charge(self, case: Case, names: Iterable[str], death: Death) -> None:
        reason = death.reason(self.course.limits)
        records = [self._failure(case, name, death.status, reason, death.log_tail) for name in names]
        self._keep(records)
        self._progress.done(records)

    def _failure(self, case: Case, name: str, status: Status, reason: str, log_tail: str = "") -> Record:
        return Record(
            case=case,
            case_id=case.case_id,
            impl=impl_info(self.course.listed.get(name, jobs.Listed(name=name))),
            status=status,
            reason=reason,
            log_tail=log_tail,
            environment_id=self.course.environment_id,
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _why_absent(self, name: str, broken: dict[str, str]) -> str:
        origin = self.course.listed[name].origin if name in self.course.listed else ""
        for module, reason in broken.items():
            if origin == module or origin.startswith(module + "."):
                return f"its module {module} could not be imported: {reason}"
        return "no module registers it on this machine any more; `moebench list` shows what there is"


class _Watch:
    """Counts wall time from a worker's readiness to its end, and passes bouts on."""

    def __init__(self, runner: Runner, chunk: Sequence[PlannedCase]) -> None:
        self._runner = runner
        self._planned = {one.case.case_id: one for one in chunk}
        self._broken: dict[str, str] = {}
        self._ready: float | None = None

    def heard(self, outcome: jobs.Outcome) -> None:
        if isinstance(outcome, jobs.ReadyOutcome):
            self._ready = time.perf_counter()
            self._broken = outcome.broken
        elif isinstance(outcome, jobs.BoutOutcome):
            self._runner.accept(outcome, self._planned[outcome.case_id], self._broken)
            self.stop()
            self._ready = time.perf_counter()

    def stop(self) -> None:
        if self._ready is not None:
            self._runner.course.wall_s += time.perf_counter() - self._ready
            self._ready = None


def chunks(planned: Sequence[PlannedCase], *, one_worker: bool) -> list[list[PlannedCase]]:
    """Cut a plan into what one worker does: neighbours that share a layer, or everything."""
    if one_worker:
        return [list(planned)] if planned else []
    return [list(group) for _, group in groupby(planned, key=lambda one: one.case.layer_key)]


def _names(planned: PlannedCase) -> tuple[str, ...]:
    assert planned.implementations is not None, "a plan names the implementations of every case"
    return planned.implementations


def impl_info(listed: jobs.Listed) -> ImplInfo:
    """Return what a record says of an implementation, from the listing."""
    return ImplInfo(
        name=listed.name,
        family=listed.family or "peer",
        version=listed.version,
        source_hash=listed.source_hash,
        origin=listed.origin,
        summary=listed.summary,
    )
