"""A run from start to end: a directory, ceilings, bouts, records; or what is missing of an earlier one."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from harness.cases.replay import replayed
from harness.cases.shape import require
from harness.records.locking import IN_PROGRESS, in_progress, locked
from harness.records.store import INFO, RunInfo, RunStore, load_run, read_records
from harness.records.unmeasured import now
from harness.running.calibrate import load_calibrations
from harness.running.child import Limits, available_memory_bytes
from harness.running.machine import measure_ceilings
from harness.running.pacing import bout_weights
from harness.running.plan import remaining
from harness.running.runner import Course, Runner

if TYPE_CHECKING:
    from pathlib import Path

    from harness.cases.case import PlannedCase
    from harness.records.record import Record
    from harness.records.store import Run
    from harness.running.machine import Machine
    from harness.running.plan import Plan
    from harness.running.runner import Progress


UNKNOWN = "unknown"
"""The source hash of an implementation that could not be imported, or that has no file."""


@dataclass(frozen=True)
class Session:
    """A run directory with what is still to be measured in it. ``complaint`` is about a calibration of no use."""

    path: Path
    info: RunInfo
    machine: Machine
    limits: Limits
    torn_lines: int = 0
    complaint: str = ""

    def to_do(self) -> list[PlannedCase]:
        """Return the cases and implementations that have no record yet."""
        return remaining(self.info.plan, {record.key for record in read_records(self.path)[0]})

    def measure(self, progress: Progress) -> Run:
        """Measure what is missing, keeping each bout as soon as it is over, and return the whole run.

        On KeyboardInterrupt, or whatever else ends it early, everything measured so far is on disk.

        Raises
        ------
        ValueError
            when another process measures into the run just now.
        """
        store = RunStore(self.path)
        with locked(self.path):
            self._measure(store, progress)
        return load_run(self.path)

    def _measure(self, store: RunStore, progress: Progress) -> None:
        course = self._course(store)
        runner = Runner(course, store.append, progress)
        earlier = self.info.measuring_s, self.info.wall_s
        to_do = self.to_do()
        left, whole = (sum(bout_weights(part, course.ceilings)) for part in (to_do, self.info.plan))
        budget_s = (self.info.budget_s or 0.0) * left / whole if whole else 0.0
        try:
            runner.run(to_do, budget_s)
            self.info.finished_at = now()
        finally:
            self.info.measuring_s = earlier[0] + course.measuring_s
            self.info.wall_s = earlier[1] + course.wall_s
            store.write_info(self.info)
            store.write_environment(msgspec.structs.replace(self.machine.environment, ceilings=course.ceilings))

    def _course(self, store: RunStore) -> Course:
        """Measure the ceilings that the run does not hold yet, and settle what stays the same over it."""
        environment = self.machine.environment
        course = Course(
            environment_id=environment.environment_id,
            listed=self.machine.listed,
            limits=self.limits,
            ceilings=dict(environment.ceilings),
            skip=dict(self.machine.skip),
            files=self.machine.files,
        )
        for device in dict.fromkeys(one.case.device for one in self.to_do()):
            if device not in course.ceilings:
                dtypes = tuple(sorted({one.case.dtype for one in self.info.plan if one.case.device == device}))
                course.ceilings[device] = measure_ceilings(device, dtypes, self.limits)
                course.measuring_s += course.ceilings[device].seconds
        course.wall_s = course.measuring_s
        store.write_environment(msgspec.structs.replace(environment, ceilings=course.ceilings))
        return course


def start(plan: Plan, path: Path, machine: Machine, command: str, stage_s: float) -> Session:
    """Lay out a new run directory.

    Raises
    ------
    ValueError
        when the directory already holds a run, or for an impossible time limit.
    """
    if (path / INFO).exists():
        resume_it = f"--resume {shlex.quote(str(path))}"
        raise ValueError(f"--out = {str(path)!r}: holds a run already; continue it with {resume_it}")
    limits = limits_for(plan.devices, stage_s)
    info = RunInfo(
        name=path.name,
        command=command,
        started_at=now(),
        suite=plan.suite,
        description=plan.description,
        plan=list(plan.planned),
        left_out=list(plan.left_out),
        published=list(plan.published),
        budget_s=plan.budget_s,
        files=list(machine.files),
    )
    store = RunStore(path)
    calibrations, complaint = load_calibrations(machine.environment.environment_id)
    machine = replace(machine, environment=msgspec.structs.replace(machine.environment, calibrations=calibrations))
    store.write_environment(machine.environment)
    store.write_info(info)  # last: a directory with this file holds a run
    return Session(path, info, machine, limits, complaint=complaint)


def resume(path: Path, machine: Machine, stage_s: float) -> Session:
    """Take up an unfinished run where it stopped.

    Raises
    ------
    ValueError
        when there is no run, somebody still measures into it, it was taken in another environment, whose numbers must
        not be mixed with this one's, or an implementation or a trace in it has changed.
    """
    run = load_run(path)
    require(not in_progress(path), "--resume", str(path), IN_PROGRESS)
    then, now_here = run.environment.environment_id, machine.environment.environment_id
    if then != now_here:
        raise ValueError(
            f"--resume = {str(path)!r}: taken in environment {then}, this machine is {now_here}; start a new run"
        )
    for one in run.info.plan:
        if one.case.traffic.replay:
            replayed(one.case.traffic.spread)  # what is measured now must be the trace that was measured then
    _check_sources(run, machine)
    devices = tuple(dict.fromkeys(one.case.device for one in run.info.plan))
    calibrations, complaint = load_calibrations(now_here)
    known = msgspec.structs.replace(
        machine.environment,
        ceilings=run.environment.ceilings,
        calibrations=run.environment.calibrations | calibrations,
    )
    machine, limits = replace(machine, environment=known), limits_for(devices, stage_s)
    return Session(path, run.info, machine, limits, run.torn_lines, complaint)


def _check_sources(run: Run, machine: Machine) -> None:
    """Refuse to measure the rest of an implementation that is another one now: a run holds one version of each.

    Raises
    ------
    ValueError
        naming it and what differs.
    """
    to_do = {
        name for one in remaining(run.info.plan, {r.key for r in run.records}) for name in one.implementations or ()
    }
    for record in run.records:
        then, now_here = record.impl, machine.listed.get(record.impl.name)
        if then.name not in to_do or now_here is None or UNKNOWN in {then.source_hash, now_here.source_hash}:
            continue
        for what, before, after in (
            ("version", then.version, now_here.version),
            ("source", then.source_hash, now_here.source_hash),
        ):
            if before != after:
                raise ValueError(
                    f"--resume = {str(run.path)!r}: {then.name} has changed since: {what} {before} then, {after} now;"
                    " put it back as it was, or start a new run"
                )


def files_of(path: Path) -> tuple[str, ...]:
    """Return the user's own files that a run was begun with.

    Raises
    ------
    ValueError
        when there is no run.
    """
    return tuple(load_run(path).info.files)


def limits_for(devices: tuple[str, ...], stage_s: float) -> Limits:
    """Limits of a worker. Only runs on the CPU alone are bounded by the kernel: CUDA maps far more than it uses.

    Raises
    ------
    ValueError
        for a time limit that nothing could keep.
    """
    require(stage_s > 0, "--timeout", stage_s, "a number of seconds above 0")
    available = available_memory_bytes()
    return Limits(stage_s, available, available if devices == ("cpu",) else 0)


def gate_only(planned: list[PlannedCase], machine: Machine, limits: Limits, progress: Progress) -> list[Record]:
    """Check agreement without timing anything (``moebench validate``)."""
    records: list[Record] = []
    course = Course(
        environment_id=machine.environment.environment_id,
        listed=machine.listed,
        limits=limits,
        skip=dict(machine.skip),
        files=machine.files,
        timed=False,
        one_worker=True,
    )
    Runner(course, records.extend, progress).run(planned, budget_s=0.0)
    return records
