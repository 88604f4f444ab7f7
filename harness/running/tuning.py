"""Tuning seen from the parent: what is asked, the workers that search, and what is kept of what they find."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 (dataclass)
from typing import TYPE_CHECKING, Literal

from harness.cases.shape import require
from harness.records import estimates, rounds
from harness.records.tuned import Evidence, Key, Tuned, keep_tuned, own_path
from harness.records.verdicts import delta_of, judge
from harness.running import jobs
from harness.running.child import Child
from harness.running.plan import WORKER_START_SECONDS, check_only

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.cases.case import Case
    from harness.records.estimates import Estimate
    from harness.records.record import Record
    from harness.running.blackbox import Announcement
    from harness.running.child import Death, Limits
    from harness.running.machine import Machine
    from harness.running.request import Request

CASE_SECONDS = {"cpu": 30.0, "cuda": 60.0}
"""Budget of one case where nobody names one."""
LEAST_GAIN = 0.005
"""Share of a time below which a gain is not worth keeping, however quiet the machine."""
MOST_DEATHS = 10
"""So many workers may die before a case is given up."""
GRACE, STARTS_S = 1.5, 60.0
"""A search that takes so many times its budget, and what workers' starts may take on top, is ended from outside."""

Word = Literal["kept", "default", "failed", "not reached"]


@dataclass(frozen=True)
class Task:
    """One implementation to tune in some cases within ``budget_s``; what is found goes into ``out``, or a person's own.

    ``memory_bytes`` is the most a case needs.
    """

    impl: str
    cases: tuple[Case, ...]
    budget_s: float
    memory_bytes: int
    out: Path | None = None

    @property
    def expected_s(self) -> float:
        """How long it may take."""
        return self.budget_s + WORKER_START_SECONDS

    @property
    def advice(self) -> str:
        """Say that the cases get too little time each to try much; empty when they do not."""
        share_s = self.budget_s / len(self.cases)
        wanted_s = _usual_s(self.cases) / len(self.cases)
        if share_s >= wanted_s / 2:
            return ""
        return (
            f"{share_s:.0f} s for each of {len(self.cases)} cases, most of which goes into compiling: take fewer with"
            f" --set, or a larger --budget ({wanted_s:.0f} s a case is usual)"
        )

    def path(self, device: str) -> Path:
        """Return the file that configurations for a device go into."""
        return self.out or own_path(self.impl, device)


@dataclass(frozen=True)
class Finding:
    """What came of one case. ``estimate`` is of log(best time / default time); ``why`` says what is not obvious."""

    case: Case
    word: Word
    why: str = ""
    outcome: jobs.TunedOutcome | None = None
    estimate: Estimate | None = None

    @property
    def ratio(self) -> tuple[float, float, float] | None:
        """Best time over default time, and the ends of its 95 % interval."""
        one = self.estimate
        return (math.exp(one.log_ratio), math.exp(one.low), math.exp(one.high)) if one else None


def make_task(name: str, request: Request, out: Path | None, machine: Machine) -> Task:
    """Resolve what a person asked for against what this machine has.

    Raises
    ------
    ValueError
        for an implementation that offers no candidates, or a suite that asks for none of its cases.
    """
    check_only((name,), machine, "NAME")
    tunable = [one.name for one in machine.usable.values() if one.tunable]
    require(name in tunable, "NAME", name, f"an implementation with something to tune: {', '.join(tunable) or 'none'}")
    plan = request.plan(machine)
    cases = tuple(one.case for one in plan.planned)
    devices = {machine.environment.devices[case.device].name for case in cases}
    require(out is None or len(devices) == 1, "--out", str(out), "one file holds one model of device")
    budget_s = plan.budget_s if request.budget else _usual_s(cases)
    return Task(name, cases, budget_s, plan.memory_bytes, out)


def _usual_s(cases: Sequence[Case]) -> float:
    """Budget of some cases where nobody names one."""
    return sum(CASE_SECONDS[case.device.partition(":")[0]] for case in cases)


class Tuning:
    """Runs a task. Findings are kept on disk, and handed on, as soon as they are there."""

    def __init__(
        self, task: Task, machine: Machine, limits: Limits, doing: Callable[[Announcement], None],
        found: Callable[[Finding], None], now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.task = task
        self._machine = machine
        self._limits = limits
        self._doing = doing
        self._found = found
        self._now = now
        self._left = list(task.cases)
        self._avoid: list[str] = []
        self._deaths = 0
        self._ends = math.inf

    def run(self) -> None:
        """Search in every case; a candidate that takes its worker down is not asked again.

        Raises
        ------
        OSError, ValueError
            when a finding cannot be written.
        """
        begun = self._now()
        self._ends = begun + GRACE * self.task.budget_s + STARTS_S
        while self._left and (left_s := begun + self.task.budget_s - self._now()) > 0:
            job = jobs.TuneJob(
                impl=self.task.impl,
                cases=list(self._left),
                environment_id=self._machine.environment.environment_id,
                budget_s=left_s,
                avoid=list(self._avoid),
                skip=dict(self._machine.skip),
            )
            try:
                death = Child(job, self._limits).run(self._heard, self._ticked)
            except _OverdueError:
                break
            if death is None:
                break
            self._after(death)
        for case in self._left:
            self._found(Finding(case, "not reached", "the budget was spent; raise --budget, or name fewer cases"))
        self._left = []

    def _ticked(self, entry: Announcement) -> None:
        self._doing(entry)
        if self._now() > self._ends:
            raise _OverdueError

    def _heard(self, outcome: jobs.Outcome) -> None:
        if isinstance(outcome, jobs.TunedOutcome):
            case = self._left.pop(0)
            self._deaths = 0
            self._found(self._settle(case, outcome))

    def _settle(self, case: Case, outcome: jobs.TunedOutcome) -> Finding:
        """Keep the best where it beats the default by more than the noise."""
        finding = decide(case, outcome)
        if finding.word == "kept":
            device = self._machine.environment.devices[case.device].name
            entry = entry_of(finding, self._machine.environment.versions)
            keep_tuned(self.task.path(device), self.task.impl, device, entry)
        return finding

    def _after(self, death: Death) -> None:
        """Avoid the candidate that was running when a worker died; a case that kills without one is given up."""
        self._deaths += 1
        if jobs.CANDIDATE_MARK in death.last.impl and self._deaths < MOST_DEATHS:
            self._avoid.append(death.last.impl)
            return
        self._deaths = 0
        self._found(Finding(self._left.pop(0), "failed", death.reason(self._limits)))


class _OverdueError(Exception):
    """A search takes far longer than its budget."""


def decide(case: Case, outcome: jobs.TunedOutcome) -> Finding:
    """Say whether a search found something: the best must beat the default beyond noise, in rounds of one bout."""
    bad = next((record for record in outcome.records if record.timing is None or record.status != "ok"), None)
    if bad is not None or not outcome.records:
        why = f"{bad.status}: {bad.reason}" if bad else "nothing was measured"
        return Finding(case, "failed", why, outcome)
    if outcome.best == outcome.default:
        return Finding(case, "default", "no candidate was faster" if outcome.whole else "none faster so far", outcome)
    estimate, floor = _estimate(*outcome.records)
    verdict = judge(estimate, delta_of(LEAST_GAIN, floor))
    if verdict.word == "FASTER":
        return Finding(case, "kept", "" if outcome.whole else "there may be better ones", outcome, estimate)
    return Finding(case, "default", f"the best is no faster beyond the noise ({verdict.word})", outcome, estimate)


def _estimate(default: Record, best: Record) -> tuple[Estimate | None, float | None]:
    assert default.timing is not None
    assert best.timing is not None
    ratios = rounds.log_ratios(rounds.samples_of(default.timing), rounds.samples_of(best.timing))
    return estimates.paired(ratios), default.timing.noise_floor


def entry_of(finding: Finding, versions: dict[str, str | None]) -> Tuned:
    """Return what is written down of a finding."""
    case, outcome, estimate = finding.case, finding.outcome, finding.estimate
    assert outcome is not None
    assert estimate is not None
    return Tuned(
        key=Key.of(case.shape, case.dtype, case.pass_),
        tokens=case.traffic.tokens,
        values=outcome.best,
        evidence=Evidence(
            default=outcome.default,
            ratio=math.exp(estimate.log_ratio),
            interval=(math.exp(estimate.low), math.exp(estimate.high)),
            rounds=estimate.rounds,
            tried=outcome.tried,
            taken_at=outcome.records[-1].taken_at,
            versions={name: versions.get(name) for name in ("moebench", "torch", "triton")},
        ),
    )
