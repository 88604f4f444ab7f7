"""The parent: sends chunks of a plan to workers and sees that every (case, implementation) gets its one record.

Never imports torch, so that no kernel can take it down.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import msgspec

from harness.records.unmeasured import unmeasured
from harness.running import jobs
from harness.running.child import KILLS_FORGIVEN, Child, Limits
from harness.running.pacing import LEAST_SHARE, bout_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from harness.cases.case import Case, PlannedCase
    from harness.records.environment import Ceilings
    from harness.records.record import Record, Status
    from harness.running.blackbox import Announcement
    from harness.running.child import Death


NOT_THERE = "no module registers it on this machine any more; `moebench list` shows what there is"


class Progress(Protocol):
    """What the runner tells whoever shows a progress bar."""

    def doing(self, entry: Announcement) -> None:
        """Show what the worker announced last; called several times a second."""
        ...

    def done(self, records: Sequence[Record]) -> None:
        """Show that a bout, or the part of it that is lost, is over."""
        ...


@dataclass
class Course:
    """What stays the same over a run, and its tally of seconds.

    ``skip`` are modules no worker may import, and why; ``files`` are the user's own, which every worker imports.
    """

    environment_id: str
    listed: dict[str, jobs.Listed]
    limits: Limits = field(default_factory=Limits)
    ceilings: dict[str, Ceilings] = field(default_factory=dict)
    skip: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
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
        self._spent_s = 0.0

    def run(self, planned: Sequence[PlannedCase], budget_s: float) -> None:
        """Measure everything, sharing the budget (seconds of bouts) over what is left, by the size of its calls.

        ``planned`` names the implementations of each case that have no record yet. Cases that share a layer share a
        worker, one layer after another. Time lost to an implementation that died is not taken from the others.
        """
        left = whole = sum(bout_weights(planned, self.course.ceilings))
        for chunk in chunks(planned, one_worker=self.course.one_worker):
            weight = sum(bout_weights(chunk, self.course.ceilings))
            least_s = LEAST_SHARE * budget_s * weight / whole
            self._run_chunk(chunk, max(least_s, (budget_s - self._spent_s) * weight / left))
            left -= weight

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
                files=self.course.files,
            )
            watch = _Watch(self, chunk)
            death = Child(job, self.course.limits).run(watch.heard, self._progress.doing)
            watch.stop()
            chunk = chunk[watch.finished :]
            if death and chunk:
                chunk = self._after(death, chunk)

    def accept(self, outcome: jobs.BoutOutcome, planned: PlannedCase, broken: dict[str, str]) -> None:
        """Keep a finished bout. What was planned and is not in it was not there in the worker: a record says so."""
        self._spent_s += outcome.wall_s
        self.course.measuring_s += outcome.measuring_s
        if outcome.ceilings:
            self.course.ceilings[planned.case.device] = outcome.ceilings
        measured = {record.impl.name for record in outcome.records}
        absent = [name for name in _names(planned) if name not in measured]
        records = [
            *outcome.records,
            *(self._failure(planned.case, name, "error", self._why_absent(name, broken)) for name in absent),
        ]
        self._keep(records)
        self._progress.done(records)

    def _after(self, death: Death, chunk: list[PlannedCase]) -> list[PlannedCase]:
        """Charge whoever was running in the first case of a chunk, and return what is still to be measured."""
        last, current, names = death.last, chunk[0], _names(chunk[0])
        begun = last.case_id == current.case.case_id
        if death.killed_from_outside or (last.case_id and not begun):  # nobody's fault, as far as one can tell
            self._kills[current.case.case_id, last.impl] += 1
            if self._kills[current.case.case_id, last.impl] < KILLS_FORGIVEN:
                return chunk
        if last.stage == "import" and last.impl not in self.course.skip:
            self.course.skip[last.impl] = death.reason(self.course.limits)
            return chunk
        if begun and last.impl not in names and last.stage != jobs.WEIGHTS_STAGE and len(names) > 1:
            # Somebody's after-effect: asked one by one, they show whose.
            return [*(msgspec.structs.replace(current, implementations=(name,)) for name in names), *chunk[1:]]
        if begun and last.impl in names and len(names) > 1 and death.by == "itself" and last.stage.startswith("round"):
            # It passed the gate, and a thread that another left behind may have ended the process: alone it shows.
            rest = tuple(name for name in names if name != last.impl)
            return [
                *(msgspec.structs.replace(current, implementations=some) for some in ((last.impl,), rest)),
                *chunk[1:],
            ]
        charged = [last.impl] if begun and last.impl in names else names
        self._charge(current.case, charged, death)
        rest = tuple(name for name in names if name not in charged)
        return [msgspec.structs.replace(current, implementations=rest), *chunk[1:]] if rest else chunk[1:]

    def _charge(self, case: Case, names: Iterable[str], death: Death) -> None:
        reason = death.reason(self.course.limits)
        records = [self._failure(case, name, death.status, reason, death.log_tail) for name in names]
        self._keep(records)
        self._progress.done(records)

    def _failure(self, case: Case, name: str, status: Status, reason: str, log_tail: str = "") -> Record:
        listed = self.course.listed.get(name, jobs.Listed(name=name))
        return unmeasured(case, listed.impl, self.course.environment_id, status, reason, log_tail)

    def _why_absent(self, name: str, broken: dict[str, str]) -> str:
        origin = self.course.listed[name].origin if name in self.course.listed else ""
        return why_broken(origin, broken) or NOT_THERE


class _Watch:
    """Counts wall time from a worker's readiness to its end, and passes bouts on, which come in the order asked for."""

    def __init__(self, runner: Runner, chunk: Sequence[PlannedCase]) -> None:
        self.finished = 0
        self._runner = runner
        self._chunk = chunk
        self._broken: dict[str, str] = {}
        self._ready: float | None = None

    def heard(self, outcome: jobs.Outcome) -> None:
        if isinstance(outcome, jobs.ReadyOutcome):
            self._ready = time.perf_counter()
            self._broken = outcome.broken
        elif isinstance(outcome, jobs.BoutOutcome):
            self.finished += 1
            self._runner.accept(outcome, self._chunk[self.finished - 1], self._broken)
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


def why_broken(origin: str, broken: Mapping[str, str]) -> str:
    """Say why the module an implementation comes from, or a package above it, could not be imported; else nothing."""
    for module, reason in broken.items():
        if origin == module or origin.startswith(module + "."):
            return f"its module {module} could not be imported: {reason}"
    return ""
