"""A calibration seen from the parent: what is asked, the workers that answer, and where the outcome is kept."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from filelock import FileLock

from harness.cases.keys import IMPLEMENTATION
from harness.cases.shape import require
from harness.records.environment import Calibration
from harness.records.store import replace_file
from harness.running import jobs
from harness.running.child import Child
from harness.running.machine import MachineError
from harness.running.plan import WORKER_START_SECONDS, check_only
from harness.running.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cases.case import Case
    from harness.records.trials import Trial
    from harness.running.blackbox import Announcement
    from harness.running.child import Limits
    from harness.running.machine import Machine

LEAST_PROCESSES = 5
TRIALS_A_PROCESS = 20


@dataclass(frozen=True)
class Task:
    """Trials of one implementation in one case. ``baseline`` names the dense baseline, where one is registered."""

    case: Case
    impl: str
    baseline: str
    trials: int
    trial_s: float

    @property
    def shares(self) -> list[int]:
        """Trials of each worker: processes differ, and several show by how much."""
        processes = min(self.trials, max(LEAST_PROCESSES, math.ceil(self.trials / TRIALS_A_PROCESS)))
        return [self.trials * (i + 1) // processes - self.trials * i // processes for i in range(processes)]

    @property
    def expected_s(self) -> float:
        """How long it will take, about."""
        return self.trials * self.trial_s + len(self.shares) * WORKER_START_SECONDS


def make_task(
    suite: str, impl: str, device: str, overrides: tuple[str, ...], trials: int, trial_s: float, machine: Machine
) -> Task:
    """Resolve what a person asked for against what this machine has.

    Raises
    ------
    ValueError
        for a suite of several cases, several implementations, or numbers nothing could be done with.
    """
    require(trials >= 1, "--trials", trials, "a whole number above 0")
    require(0 < trial_s < float("inf"), "--trial-seconds", trial_s, "a number of seconds above 0")
    if impl:
        check_only((impl,), machine)
        overrides = (*overrides, f"{IMPLEMENTATION}={impl}")
    planned = Request(suite, "", device, "", overrides).plan(machine).planned
    if len(planned) > 1:
        labels = "; ".join(one.case.label() for one in planned[:8])
        raise ValueError(f"suite = {suite!r}: one case is calibrated with, this has {len(planned)}: {labels}")
    names = planned[0].implementations or ()
    require(len(names) == 1, "--impl", impl, f"one implementation to calibrate with, of {', '.join(names)}")
    dense = (one.name for one in machine.usable.values() if one.family == "dense" and one.name != names[0])
    return Task(planned[0].case, names[0], next(dense, ""), trials, trial_s)


def run_trials(
    task: Task, machine: Machine, limits: Limits, doing: Callable[[Announcement], None], done: Callable[[Trial], None]
) -> None:
    """Run all trials, one fresh worker after the other, and hand on each as soon as it is there.

    Raises
    ------
    MachineError
        when the implementation cannot be timed, or a worker dies.
    """
    first = 0
    for process, count in enumerate(task.shares):
        job = jobs.CalibrationJob(
            case=task.case,
            impl=task.impl,
            baseline=task.baseline,
            process=process,
            first=first,
            count=count,
            trial_s=task.trial_s,
            skip=machine.skip,
        )
        first += count
        refused: list[str] = []

        def heard(outcome: jobs.Outcome, refused: list[str] = refused) -> None:
            if isinstance(outcome, jobs.TrialOutcome):
                done(outcome.trial)
            elif isinstance(outcome, jobs.RefusedOutcome):
                refused.append(outcome.reason)

        death = Child(job, limits).run(heard, doing)
        if death:
            raise MachineError(f"{task.impl} took the worker down: {death.reason(limits)}\n{death.log_tail}".strip())
        if refused:
            raise MachineError(refused[0])


def state_path(environment_id: str) -> Path:
    """Return where an environment's calibrations are kept: under the user's state directory (XDG)."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    state = given if given.is_absolute() else Path.home() / ".local" / "state"
    return state / "moebench" / "calibrations" / f"{environment_id}.json"


def load_calibrations(environment_id: str) -> tuple[dict[str, Calibration], str]:
    """Return what is kept for an environment, by device, and why it is of no use when it cannot be read."""
    path = state_path(environment_id)
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Calibration]), ""
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        return {}, f"{path}: not a calibration of this version of moebench, ignored: {error}"


def keep_calibration(environment_id: str, device: str, calibration: Calibration) -> Calibration:
    """Keep a device's calibration for the runs to come, unless one of more trials is; return the one that is kept.

    Raises
    ------
    OSError
        when the state directory cannot be written.
    """
    path = state_path(environment_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        kept, _ = load_calibrations(environment_id)
        earlier = kept.get(device, calibration)
        if earlier.trials > calibration.trials:
            return earlier
        replace_file(path, kept | {device: calibration})
    return calibration
