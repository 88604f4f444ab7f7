"""Two revisions of the implementations measured side by side, in fresh pairs of worker processes.

What differs between two processes that run the same code, above all where their memory lies, is as large as what one
wants to see; over several pairs it shows as spread.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from harness.cases.shape import require
from harness.cases.suite import check_memory, located
from harness.records.locking import locked
from harness.records.store import RunStore, load_run
from harness.records.unmeasured import now
from harness.running import session
from harness.running.child import Outfit
from harness.running.environment import git_state
from harness.running.machine import look_around
from harness.running.plan import CEILINGS_SECONDS, WORKER_START_SECONDS
from harness.running.request import available_memory
from harness.running.runner import chunks
from harness.running.versus.pairs import Pairs
from harness.running.versus.revision import commit_of, find_sources, laid_out
from harness.running.versus.side import Side, plan_sides

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.records.store import Run
    from harness.running.child import Limits
    from harness.running.machine import Machine
    from harness.running.plan import Plan
    from harness.running.runner import Progress
    from harness.running.session import Session
    from harness.running.versus.revision import Revision, Sources

BASE, NEW = "base", "new"


def measure_versus(
    plan: Plan,
    rev: str,
    out: Path,
    machine: Machine,
    command: str,
    *,
    pairs: int = 10,
    stage_s: float,
    progress: Progress,
) -> tuple[Run, Run]:
    """Measure revision ``rev`` and the working tree side by side into ``out/base`` and ``out/new``; return both runs.

    ``plan`` was made for the working tree's implementations on ``machine``. On KeyboardInterrupt, or whatever else ends
    it early, the pairs that were complete are on disk; without any, nothing is. The repository is left as it was.

    Raises
    ------
    ValueError
        for an unknown revision or no repository, a case too large for two workers, or directories that are not empty.
    """
    require(pairs >= 1, "--pairs", pairs, "a number above 0")
    check_free(out)
    sources = find_sources()
    sha = commit_of(sources.repository, rev)
    limits = _halved(session.limits_for(plan.devices, stage_s))
    with located("compare has two workers at a time"):
        halves = {device: available // 2 for device, available in available_memory(machine).items()}
        check_memory(plan.planned, halves)
    with laid_out(sources, sha) as revision:
        sides = _sides(plan, sources, revision, machine, limits)
        with _directories(out, sides):
            laid = [_start(plan, side, out / side.name, command, stage_s) for side in sides]
            measured = Pairs(sides, plan, limits, progress)
            with locked(laid[0].path), locked(laid[1].path):
                try:
                    measured.run(pairs)
                    for one in laid:
                        one.info.finished_at = now()
                finally:
                    base, new = (_write(measured, side, one) for side, one in zip(sides, laid, strict=True))
    progress.done(new.records)
    return base, new


def check_free(out: Path) -> None:
    """Refuse a place that holds a comparison already.

    Raises
    ------
    ValueError
        naming the directory that is not empty.
    """
    for place in (out / BASE, out / NEW):
        if place.is_dir() and any(place.iterdir()):
            raise ValueError(f"--out = {str(out)!r}: {place} is there already and not empty; choose another --out")


@contextlib.contextmanager
def _directories(out: Path, sides: tuple[Side, Side]) -> Iterator[None]:
    """Take away the directories that come to be meanwhile, should it end early without a complete pair."""
    check_free(out)  # again, since a look at the revision takes seconds: what somebody else put there is not ours
    made = [path for path in (out, *out.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if not any(side.measured for side in sides):
            for side in sides:
                shutil.rmtree(out / side.name, ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody else may have put something beside
                for path in made:
                    path.rmdir()
        raise


def _start(plan: Plan, side: Side, path: Path, command: str, stage_s: float) -> Session:
    return session.start(replace(plan, planned=tuple(side.planned.values())), path, side.machine, command, stage_s)


def _write(measured: Pairs, side: Side, laid: Session) -> Run:
    """Write what a side's complete pairs gave into its run directory."""
    store = RunStore(laid.path)
    store.append(side.records(measured.bouts, measured.ceilings))
    laid.info.measuring_s, laid.info.wall_s = side.measuring_s, measured.wall_s
    store.write_info(laid.info)
    store.write_environment(msgspec.structs.replace(laid.machine.environment, ceilings=measured.ceilings))
    return load_run(laid.path)


def expected_s(plan: Plan, pairs: int) -> float:
    """How long it may take: a look at the revision, ceilings, the workers of every pair, and the budget."""
    workers = 2 * pairs * len(chunks(plan.planned, one_worker=False))
    return (1 + workers) * WORKER_START_SECONDS + CEILINGS_SECONDS * len(plan.devices) + plan.budget_s


def _halved(limits: Limits) -> Limits:
    return replace(limits, memory_bytes=limits.memory_bytes // 2, data_bytes=limits.data_bytes // 2)


def _sides(plan: Plan, sources: Sources, revision: Revision, machine: Machine, limits: Limits) -> tuple[Side, Side]:
    """Find out what the revision has, and share the plan."""
    sha, dirty = git_state(sources.repository)
    outfit = Outfit(path=(revision.path,))
    found = look_around(limits, outfit, revision.missing)
    listed = {name: one for name, one in found.listed.items() if name not in revision.missing}
    describe = msgspec.structs.replace
    there = replace(
        machine,
        environment=describe(machine.environment, git_sha=revision.sha, git_dirty=None),
        listed=listed,
        skip=found.skip,
    )
    here = replace(machine, environment=describe(machine.environment, git_sha=sha, git_dirty=dirty))
    base = Side(BASE, there, {}, revision.homes, outfit, dict(found.skip))
    places = {top: str(place) for top, place in sources.modules.items()}
    new = Side(NEW, here, {}, places, skip=dict(machine.skip))
    plan_sides(plan.planned, base, new)
    return base, new
