"""Bouts as pytest asks for them: a case at a time, when the first test of it comes up. Never imports torch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.records.store import RunStore
from harness.report.labels import short_name, slug
from harness.running import session
from harness.running.child import Limits
from harness.running.machine import look_around

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from harness.cases.case import PlannedCase
    from harness.records.record import Record
    from harness.running.blackbox import Announcement
    from harness.running.request import Request

Pair = tuple[str, str]
"""``case_id`` and the name of an implementation: one test, one record."""


@dataclass(frozen=True)
class OneCase(session.Session):
    """A session that measures one case of its run and leaves the others for later."""

    case_id: str = ""

    def to_do(self) -> list[PlannedCase]:
        """Return what the case still lacks."""
        return [one for one in super().to_do() if one.case.case_id == self.case_id]


class Silent:
    """Shows no progress: pytest shows its own."""

    def doing(self, entry: Announcement) -> None:
        """Show nothing."""

    def done(self, records: Sequence[Record]) -> None:
        """Show nothing."""


class Bouts:
    """The records of one pytest session, each case measured when it is first asked for.

    ``run_dir`` is where the run goes, and may be set until then; ``words`` is the command line that it notes.

    Raises
    ------
    ValueError
        for a suite, an implementation, a budget or a directory that will not do, in one line.
    MachineError
        when a worker cannot even look around.
    """

    def __init__(self, request: Request, run_dir: Path | None, words: Sequence[str]) -> None:
        if run_dir and (run_dir / "run.json").exists():
            raise ValueError(f"--run-dir = {str(run_dir)!r}: holds a run already; name a new directory")
        self.run_dir = run_dir
        self.machine = look_around()
        self.plan = request.plan(self.machine)
        self._devices = {name: self.machine.environment.devices[name] for name in self.plan.devices}
        self._command = shlex.join(["pytest", *words])
        self._session: session.Session | None = None
        self._records: dict[Pair, Record] = {}

    @property
    def device_slug(self) -> str:
        """Names of the devices that the plan's cases run on, as a part of a folder's name."""
        return slug("-".join(short_name(device.name) for device in self._devices.values()))

    @property
    def summary(self) -> str:
        """One line for people: what is about to be measured, and how long that may take."""
        records = sum(len(one.implementations or ()) for one in self.plan.planned)
        size = f"cases: {len(self.plan.planned)}, records: {records}"
        return f"moebench {self.plan.suite}, {size}, bouts take at most about {self.plan.budget_s:g} s together"

    def is_baseline(self, implementation: str) -> bool:
        """Whether an implementation is the dense baseline, which is never ranked among the others."""
        return self.machine.listed[implementation].family == "dense"

    def narrow(self, pairs: Collection[Pair]) -> None:
        """Forget what pytest deselected, so that it costs no time."""
        kept = []
        for one in self.plan.planned:
            names = tuple(name for name in one.implementations or () if (one.case.case_id, name) in pairs)
            if names:
                kept.append(msgspec.structs.replace(one, implementations=names))
        self.plan = replace(self.plan, planned=tuple(kept))

    def machine_details(self) -> dict[str, Any]:
        """Return what can move a number and stays the same between two runs on one machine."""
        environment = self.machine.environment
        return {
            "environment_id": environment.environment_id,
            "devices": msgspec.to_builtins(self._devices),
            "versions": environment.versions,
        }

    def record(self, case_id: str, implementation: str, *, timed: bool) -> Record:
        """Return a record; measures its whole case first, or checks the agreement of all cases when not ``timed``."""
        if (case_id, implementation) not in self._records:
            records = self._measure(case_id) if timed else self._check()
            self._records |= {record.key: record for record in records}
        return self._records[case_id, implementation]

    def _check(self) -> list[Record]:
        limits = session.limits_for(self.plan.devices, Limits().stage_s)
        return session.gate_only(list(self.plan.planned), self.machine, limits, Silent())

    def _measure(self, case_id: str) -> list[Record]:
        if self._session is None:
            assert self.run_dir, "the fixture has settled where the run goes"
            self._session = session.start(self.plan, self.run_dir, self.machine, self._command, Limits().stage_s)
        whole = self._session
        run = OneCase(whole.path, whole.info, whole.machine, whole.limits, case_id=case_id).measure(Silent())
        known = replace(whole.machine, environment=run.environment)  # ceilings are measured once a device
        self._session = replace(whole, machine=known)
        if whole.to_do():
            whole.info.finished_at = None
            RunStore(whole.path).write_info(whole.info)
        return run.records


def readable_id(one: PlannedCase, implementation: str) -> str:
    """Name a test. Equal ids are equal cases: what pytest-benchmark compares by its name is like for like."""
    return f"{slug(one.case.label())}-{one.case.case_id[:6]}-{implementation}"


def details(record: Record) -> dict[str, Any]:
    """Return all of a record but the samples, which pytest-benchmark keeps itself, as plain data."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    del plain["schema"], plain["reason"], plain["log_tail"]  # an ``ok`` record has nothing to say there
    for name in ("samples_ns", "rounds"):
        plain["timing"].pop(name)
    return plain


BOUTS = pytest.StashKey[Bouts]()
"""Where the session's bouts are kept in pytest's ``config.stash``."""
